//! The command line and the environment, read once.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use imageops_image::compress::{CompressOptions, Compression, Level, Recompress, Window};
use imageops_image::guest::ExtraGains;

use crate::exit::Failure;
use crate::output::Form;

/// Where exit statuses are explained.
const EXIT_HELP: &str = "\
Exit status: 0 on success, 1 on failure and on wrong usage, 130 when interrupted.
check ends as qemu-img check does: 0 consistent, 2 corruptions, 3 leaked clusters, 63 the format has no check,
1 not opened or not completed. inspect: 0 valid, 2 refused, 3 nothing can be said.

Environment: IMAGEOPS_SERVER is the default of --server, IMAGEOPS_CA that of --ca, IMAGEOPS_CLIENT_CERT and
IMAGEOPS_CLIENT_KEY those of --client-cert and --client-key; IMAGEOPS_TOKEN holds the key for the server.";

/// Checks, compresses and inspects virtual-machine images: local files without any server, or through a server.
#[derive(Debug, Parser)]
#[command(name = "imageops", version, after_help = EXIT_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands take.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t, global = true, value_name = "FORM")]
    pub(crate) output: Form,

    /// Address of a server (http://HOST:PORT or https://HOST:PORT): work there, not on local files.
    #[arg(long, env = "IMAGEOPS_SERVER", global = true, value_name = "URL", value_hint = ValueHint::Url)]
    server: Option<String>,

    /// Authorities that the server's certificate must lead to, in PEM; those of the system by default.
    #[arg(long, env = "IMAGEOPS_CA", global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,

    /// Client certificate, in PEM, for servers that ask for one.
    #[arg(
        long,
        env = "IMAGEOPS_CLIENT_CERT",
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        requires = "client_key"
    )]
    pub(crate) client_cert: Option<PathBuf>,

    /// Its private key, in PEM.
    #[arg(
        long,
        env = "IMAGEOPS_CLIENT_KEY",
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        requires = "client_cert"
    )]
    pub(crate) client_key: Option<PathBuf>,
}

impl Global {
    /// The server to work through; an empty address means none.
    pub(crate) fn server(&self) -> Option<&str> {
        self.server.as_deref().filter(|server| !server.is_empty())
    }
}

/// The key for the server. It has no flag: the command line of a program is for all users of a machine to see.
pub(crate) fn token() -> Option<String> {
    std::env::var("IMAGEOPS_TOKEN").ok().filter(|token| !token.trim().is_empty())
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at an image without reading its data: format, sizes, partitions, file systems, safety.
    Inspect(InspectArgs),
    /// Check structure, digests and safety of an image.
    Check(CheckArgs),
    /// Drop what the guest has freed and write the rest as compressed qcow2, verified.
    Compress(CompressArgs),
    /// Write the guest's disk in another format, verified; all of it, also what the guest has freed.
    Convert(crate::convert::ConvertArgs),
    /// Show where the bytes of an image are and what compress would win.
    Map(crate::map::MapArgs),
    /// Upload a file to a server; goes on by itself after a broken connection.
    Upload(UploadArgs),
    /// Have a server fetch an image from a URL, and wait for it.
    Import(crate::import::ImportArgs),
    /// Download an image from a server, verified; what is empty stays empty.
    Download(DownloadArgs),
    /// Jobs of a server.
    #[command(subcommand)]
    Job(JobCommand),
    /// Images that a server keeps.
    #[command(subcommand)]
    Image(crate::image::ImageCommand),
    /// Stores of a server: where the bytes of its images lie.
    #[command(subcommand)]
    Store(crate::store::StoreCommand),
    /// Keys of a server: who may do what.
    #[command(subcommand)]
    Key(crate::key::KeyCommand),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Formats that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// The bytes of the disk, nothing else.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The image. With --server: images/ID, or the name of a file below the server's image root.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) source: PathBuf,

    /// Format that the image must have; without it the content decides.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatName>,
}

/// Digests that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DigestName {
    /// MD5.
    Md5,
    /// SHA-256.
    Sha256,
    /// None: only the tables are read.
    None,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The image. With --server: images/ID, or the name of a file below the server's image root.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) source: PathBuf,

    /// Digests of the file to compute: md5, sha256, md5,sha256 or none.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "md5,sha256", value_name = "LIST")]
    digest: Vec<DigestName>,

    /// Format of the image; without it the content decides. Local files only.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatName>,

    /// Threads that walk tables; without it one for each core. Local files only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
}

impl CheckArgs {
    /// Whether MD5 and SHA-256 are wanted.
    pub(crate) fn digests(&self) -> Result<(bool, bool), Failure> {
        let has = |name| self.digest.contains(&name);
        if has(DigestName::None) && self.digest.len() > 1 {
            return Err(Failure::new("--digest none cannot be combined with a digest"));
        }
        Ok((has(DigestName::Md5), has(DigestName::Sha256)))
    }
}

/// Coders that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionName {
    /// Read by everything that reads qcow2.
    #[default]
    Zlib,
    /// Faster, needs qemu 5.1 or newer.
    Zstd,
}

/// What can become of clusters that are compressed in the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecompressName {
    /// Copied as they are, at any level, when they fit into the output and the guest uses them in full.
    #[default]
    Auto,
    /// Packed anew.
    Always,
}

/// Windows that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WindowName {
    /// 32 KiB: smaller and faster, read by qemu.
    #[default]
    #[value(name = "32k")]
    Full,
    /// 4 KiB, as qemu itself writes.
    #[value(name = "4k")]
    Narrow,
}

/// What can be dropped beside free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExtraName {
    /// Bodies of clean ext3 and ext4 journals.
    Journals,
    /// Inode tables of ext4 that no file has used.
    InodeTables,
    /// Gaps of 1 MiB and more between and behind partitions.
    Gaps,
}

/// The gain of dropping more than free space; `compress` and `map` share it.
#[derive(Debug, Args)]
pub(crate) struct ExtraArgs {
    /// Drop what no guest reads any more, beside free space: journals, inode-tables, gaps.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    drop_extra: Vec<ExtraName>,
}

impl ExtraArgs {
    /// Whether anything is asked for.
    pub(crate) fn any(&self) -> bool {
        !self.drop_extra.is_empty()
    }

    /// As the engine knows it.
    pub(crate) fn gains(&self) -> ExtraGains {
        let has = |name| self.drop_extra.contains(&name);
        ExtraGains {
            journals: has(ExtraName::Journals),
            inode_tables: has(ExtraName::InodeTables),
            gaps: has(ExtraName::Gaps),
        }
    }
}

/// A name and a value.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("has the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_level(text: &str) -> Result<Level, String> {
    text.parse().map_err(|_| "not fast, default, small, smallest or a number".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct CompressArgs {
    /// The image, raw or qcow2; it is never changed but with --in-place. With --server as in check.
    #[arg(value_name = "IN", value_hint = ValueHint::FilePath)]
    pub(crate) source: PathBuf,

    /// The file to write; an existing one is replaced when all is done. With --server: a name below the server's image
    /// root, or for images/ID the name of the new image.
    #[arg(value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) target: Option<PathBuf>,

    /// Coder of the clusters.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: CompressionName,

    /// Effort: fast, default, small, smallest, or 1 to 12 with zlib and 1 to 22 with zstd.
    #[arg(long, value_name = "LEVEL", default_value = "default", value_parser = parse_level)]
    pub(crate) level: Level,

    /// How far back zlib may refer: 4k for readers that inflate in steps with a small window.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) window: WindowName,

    /// What becomes of clusters that are compressed in IN.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) recompress: RecompressName,

    /// Store equal clusters once.
    #[arg(long)]
    pub(crate) share_identical: bool,

    /// Threads that compress; without it one for each core. Local files only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// Change IN itself: what the guest has freed is given back to the file system it lies on, all else stays as it is.
    /// Never for an image that others have as a backing file. Local files only.
    #[arg(
        long,
        conflicts_with_all = [
            "target", "compression", "level", "window", "recompress", "share_identical", "threads",
            "keep_free_space", "no_verify", "dry_run",
        ]
    )]
    pub(crate) in_place: bool,

    /// Write nothing: tell what would be dropped and kept, and about how long the output would be.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Keep what the guest has freed: the output then compares equal byte for byte.
    #[arg(long, conflicts_with = "drop_extra")]
    pub(crate) keep_free_space: bool,

    #[command(flatten)]
    pub(crate) extra: ExtraArgs,

    /// Do not read the output back before it gets its name. Local files only.
    #[arg(long)]
    pub(crate) no_verify: bool,

    /// Format of IN; without it the content decides. Local files only.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatName>,
}

impl CompressArgs {
    /// The engine's options.
    pub(crate) fn options(&self) -> CompressOptions {
        CompressOptions {
            compression: match self.compression {
                CompressionName::Zlib => Compression::Zlib,
                CompressionName::Zstd => Compression::Zstd,
            },
            level: self.level,
            window: match self.window {
                WindowName::Full => Window::Full,
                WindowName::Narrow => Window::Narrow,
            },
            recompress: match self.recompress {
                RecompressName::Auto => Recompress::Auto,
                RecompressName::Always => Recompress::Always,
            },
            share_identical: self.share_identical,
            threads: self.threads.unwrap_or(0).into(),
            drop_free: !self.keep_free_space,
            extra: self.extra.gains(),
            verify: !self.no_verify,
            ..CompressOptions::default()
        }
    }

    /// Refuses what the coder does not have, before any file is opened.
    pub(crate) fn check_coder(&self) -> Result<(), Failure> {
        if self.compression == CompressionName::Zstd && self.window != WindowName::Full {
            return Err(Failure::new("--window 4k: only zlib has a window that can be narrowed"));
        }
        let levels = self.options().levels();
        match self.level {
            Level::Number(level) if !levels.contains(&level) => Err(Failure::new(format!(
                "--level {level}: the levels of this coder are {} to {}",
                levels.start(),
                levels.end()
            ))),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// The file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Name of the image; without it that of the file.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Text for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) description: String,

    /// Label of the image; may be given more than once, as the next two.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) label: Vec<(String, String)>,

    /// Property of the image.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) property: Vec<(String, String)>,

    /// Tag of the image.
    #[arg(long)]
    pub(crate) tag: Vec<String>,

    /// Store that the bytes go to, by its name; without it the server chooses by weight and room.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) store: String,

    /// The file is a zip: the image in it is what is taken.
    #[arg(long)]
    pub(crate) zip: bool,

    /// Compare what the server has stored with the file by SHA-256 instead of CRC-32; takes about as much processor time as
    /// all else. What goes on after a cut is always compared by SHA-256.
    #[arg(long)]
    pub(crate) sha256: bool,

    /// Go on with an upload that was interrupted (uploads/ID).
    #[arg(long, value_name = "UPLOAD")]
    pub(crate) resume: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// The image: images/ID.
    pub(crate) image: String,

    /// The file to write; an existing one is replaced when all is there. `-`: standard output.
    #[arg(value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) target: PathBuf,

    /// Format to get it in: where the image has another one the server converts it first.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatName>,
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, newest first.
    List(JobListArgs),
    /// Show a job and its result.
    Show {
        /// jobs/ID, or the ID alone.
        job: String,
    },
    /// Follow a job to its end; fails when the job does.
    Watch {
        /// jobs/ID, or the ID alone.
        job: String,
    },
    /// Ask a job to stop.
    Cancel {
        /// jobs/ID, or the ID alone.
        job: String,
    },
}

/// States of jobs that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum JobStateName {
    /// Waits for a worker.
    Queued,
    /// A worker is at it.
    Running,
    /// Done.
    Succeeded,
    /// Ended without a result.
    Failed,
    /// Ended on request.
    Cancelled,
}

#[derive(Debug, Args)]
pub(crate) struct JobListArgs {
    /// Only jobs in these states.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub(crate) state: Vec<JobStateName>,

    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    fn check(arguments: &[&str]) -> CheckArgs {
        match Cli::try_parse_from(["imageops", "check", "disk"].iter().chain(arguments)).unwrap().command {
            Command::Check(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn digests_are_both_unless_said() {
        assert_eq!(check(&[]).digests(), Ok((true, true)));
        assert_eq!(check(&["--digest", "md5"]).digests(), Ok((true, false)));
        assert_eq!(check(&["--digest", "sha256,md5"]).digests(), Ok((true, true)));
        assert_eq!(check(&["--digest", "none"]).digests(), Ok((false, false)));
        assert!(check(&["--digest", "none,md5"]).digests().is_err());
        assert!(Cli::try_parse_from(["imageops", "check", "disk", "--digest", "sha1"]).is_err());
    }

    #[test]
    fn extra_gains_are_off_unless_said() {
        let gains = |arguments: &[&str]| {
            let line = ["imageops", "compress", "in", "out"];
            match Cli::try_parse_from(line.iter().chain(arguments)).map(|parsed| parsed.command) {
                Ok(Command::Compress(arguments)) => Some(arguments.options().extra),
                Ok(other) => panic!("{other:?}"),
                Err(_) => None,
            }
        };
        let none = ExtraGains::default();
        assert_eq!(gains(&[]), Some(none));
        assert_eq!(gains(&["--drop-extra", "gaps"]), Some(ExtraGains { gaps: true, ..none }));
        let both = ExtraGains { journals: true, inode_tables: true, gaps: false };
        assert_eq!(gains(&["--drop-extra", "journals,inode-tables"]), Some(both));
        assert_eq!(gains(&["--drop-extra", "logs"]), None);
        assert_eq!(gains(&["--drop-extra", "gaps", "--keep-free-space"]), None);
    }

    #[test]
    fn levels_belong_to_their_coder() {
        let level = |arguments: &[&str]| {
            let line = ["imageops", "compress", "in", "out"];
            match Cli::try_parse_from(line.iter().chain(arguments)).unwrap().command {
                Command::Compress(arguments) => arguments.check_coder(),
                other => panic!("{other:?}"),
            }
        };
        assert!(level(&[]).is_ok());
        assert!(level(&["--level", "12"]).is_ok());
        assert!(level(&["--level", "smallest"]).is_ok());
        assert!(level(&["--window", "4k", "--level", "9"]).is_ok());
        assert!(level(&["--window", "4k", "--level", "10"]).is_err());
        assert!(level(&["--window", "4k", "--compression", "zstd"]).is_err());
        assert!(level(&["--level", "13"]).is_err());
        assert!(level(&["--level", "0"]).is_err());
        assert!(level(&["--compression", "zstd", "--level", "22"]).is_ok());
        assert!(level(&["--compression", "zstd", "--level", "23"]).is_err());
    }
}
