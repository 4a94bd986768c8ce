//! Compresses one image and prints the report: `compress IN OUT [zlib|zstd] [LEVEL] [THREADS] [keep] [unverified] [always] [4k] [share] [extra]`.
//!
//! For measuring; the command line tool does this with progress and all options.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::compress::{CompressOptions, Compression, Level, Recompress, Window, compress};
use imageops_image::guest::ExtraGains;
use imageops_image::output::{Existing, OutputFile};
use imageops_image::storage::FileStorage;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [source, target, rest @ ..] = words.as_slice() else {
        return Err(
            "usage: compress IN OUT [zlib|zstd] [LEVEL] [THREADS] [keep] [unverified] [always] [4k] [share] [extra]"
                .into(),
        );
    };
    let has = |word: &str| rest.iter().any(|other| other == word);
    let mut numbers = rest.iter().filter_map(|word| word.parse::<u8>().ok());
    let options = CompressOptions {
        compression: if has("zstd") { Compression::Zstd } else { Compression::Zlib },
        level: numbers.next().map_or(Level::Default, Level::Number),
        window: if has("4k") { Window::Narrow } else { Window::Full },
        recompress: if has("always") { Recompress::Always } else { Recompress::Auto },
        share_identical: has("share"),
        threads: numbers.next().map_or(0, usize::from),
        drop_free: !has("keep"),
        extra: ExtraGains { journals: has("extra"), inode_tables: has("extra"), gaps: has("extra") },
        verify: !has("unverified"),
        output_limit_bytes: None,
    };
    let target = Path::new(target);
    let output = OutputFile::create(target.parent().unwrap_or(Path::new(".")))?;
    let storage = Arc::new(FileStorage::new(File::open(source)?)?);
    let report = compress(storage, None, output.file(), &options, &Control::default())?;
    output.publish(target.file_name().ok_or("the output needs a name")?, 0o644, Existing::Replace)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
