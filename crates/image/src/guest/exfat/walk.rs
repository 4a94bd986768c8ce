//! The walk over all directories: which clusters the files own.
//!
//! The allocation bitmap has neither checksum nor copy, so that a wrong bit in it shows only against the files.

use std::ops::Range;

use super::boot::BootRegion;
use super::chain::{Claims, Stream};
use super::entry::{self, ENTRY_BYTES, File, Primary, SET_MAX};
use crate::control::Control;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::guest::reader::Stop;
use crate::reason;

/// Bytes of all directories together: some ten million files.
const DIRECTORIES_BYTES_MAX: u64 = 1 << 30;
/// Directories that are known and not yet read: 3 MiB of them.
const PENDING_MAX: usize = 1 << 17;
/// Runs of clusters of one directory: 2 MiB of them.
const RUNS_MAX: usize = 1 << 18;
/// Clusters reach 32 MiB: they are read in pieces.
const PIECE_BYTES: u64 = 64 << 10;

/// What the walk found.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) claims: Claims,
    /// Where the allocation bitmap lies.
    pub(crate) bitmap: Vec<Range<u32>>,
    pub(crate) label: Option<String>,
}

/// A walk under way.
struct Walk<'a> {
    device: &'a Device<'a>,
    boot: BootRegion,
    control: &'a Control,
    claims: Claims,
    bitmap: Option<Stream>,
    upper_case: Option<Stream>,
    label: Option<String>,
    pending: Vec<Stream>,
    directories_bytes: u64,
}

fn geometry(message: &str) -> Kept {
    Kept::whole(reason::KEPT_GEOMETRY, message)
}

fn limit(message: &str) -> Kept {
    Kept::whole(reason::KEPT_LIMIT, message)
}

/// Walks over everything; the inner error is the reason to keep all.
pub(crate) fn walk(device: &Device<'_>, boot: BootRegion, control: &Control) -> Result<Result<Tree, Kept>> {
    match Walk::run(device, boot, control) {
        Ok(tree) => Ok(Ok(tree)),
        Err(Stop::Kept(kept)) => Ok(Err(kept)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

impl<'a> Walk<'a> {
    fn run(device: &'a Device<'a>, boot: BootRegion, control: &'a Control) -> Result<Tree, Stop> {
        let mut walk = Walk {
            device,
            boot,
            control,
            claims: Claims::new(boot)?,
            bitmap: None,
            upper_case: None,
            label: None,
            pending: Vec::new(),
            directories_bytes: 0,
        };
        let root = Stream { first: boot.root, contiguous: false, length_bytes: None };
        walk.directory(root, true)?;
        while let Some(directory) = walk.pending.pop() {
            walk.directory(directory, false)?;
        }
        let missing = || geometry("the root directory names no allocation bitmap, or no upper-case table");
        let (bitmap, upper_case) = walk.bitmap.zip(walk.upper_case).ok_or_else(missing)?;
        if bitmap.length_bytes != Some(u64::from(boot.clusters).div_ceil(8)) {
            return Err(geometry("the allocation bitmap has another size than the clusters need").into());
        }
        walk.claim(upper_case)?;
        let bitmap = walk.claim(bitmap)?;
        Ok(Tree { claims: walk.claims, bitmap, label: walk.label })
    }

    /// Claims a stream and returns where it lies.
    fn claim(&mut self, stream: Stream) -> Result<Vec<Range<u32>>, Stop> {
        let mut runs = Vec::new();
        // Above the limit the runs are of no use any more.
        let keep = |run| {
            if runs.len() <= RUNS_MAX {
                runs.push(run)
            }
        };
        self.claims.claim(self.device, stream, self.control, keep)??;
        if runs.len() > RUNS_MAX {
            return Err(limit("a directory is too scattered").into());
        }
        Ok(runs)
    }

    /// Reads one directory; those inside it are left for later.
    fn directory(&mut self, directory: Stream, is_root: bool) -> Result<(), Stop> {
        let runs = self.claim(directory)?;
        let mut left = directory.length_bytes.unwrap_or(u64::MAX);
        let mut set = Vec::with_capacity(SET_MAX * ENTRY_BYTES);
        let mut set_bytes = 0;
        let mut piece = Vec::new();
        for run in runs {
            let end = self.boot.place(run.end - 1) + self.boot.cluster_bytes;
            let mut place = self.boot.place(run.start);
            while place < end && left >= ENTRY_BYTES as u64 {
                self.control.check_cancelled()?;
                // Not more than the directory has, of which half an entry at the end is none.
                let length = (end - place).min(PIECE_BYTES).min(left);
                piece.resize(length as usize, 0);
                self.count(length)?;
                if !self.device.read_at(&mut piece, place)? {
                    return Err(geometry("a directory lies outside the device").into());
                }
                for entry in piece.chunks_exact(ENTRY_BYTES) {
                    if set.is_empty() {
                        match entry::primary(entry)? {
                            Primary::End => return Ok(()),
                            Primary::File(count) => set_bytes = (count + 1) * ENTRY_BYTES,
                            other => {
                                self.root_entry(other, is_root)?;
                                continue;
                            }
                        }
                    }
                    set.extend_from_slice(entry);
                    if set.len() == set_bytes {
                        let file = entry::file(&set)?;
                        set.clear();
                        self.file(file)?;
                    }
                }
                place += length;
                left -= length;
            }
        }
        if set.is_empty() { Ok(()) } else { Err(geometry("a directory ends inside a set of entries").into()) }
    }

    fn count(&mut self, length: u64) -> Result<(), Stop> {
        self.directories_bytes += length;
        if self.directories_bytes > DIRECTORIES_BYTES_MAX {
            return Err(limit("the directories are too large").into());
        }
        Ok(())
    }

    /// Takes what only the root directory may have, and each once.
    fn root_entry(&mut self, entry: Primary, is_root: bool) -> Result<(), Stop> {
        let first = match entry {
            Primary::Skip => return Ok(()),
            _ if !is_root => false,
            Primary::Bitmap(stream) => self.bitmap.replace(stream).is_none(),
            Primary::UpperCase(stream) => self.upper_case.replace(stream).is_none(),
            Primary::Label(label) => {
                self.label = label;
                true
            }
            Primary::End | Primary::File(_) => false,
        };
        if first {
            Ok(())
        } else {
            Err(geometry("a table of the file system is named twice or in a wrong place").into())
        }
    }

    fn file(&mut self, file: File) -> Result<(), Stop> {
        for other in file.others {
            self.claim_only(other)?;
        }
        if !file.is_directory {
            return self.claim_only(file.stream);
        }
        if self.pending.len() == PENDING_MAX {
            return Err(limit("too many directories").into());
        }
        self.pending.push(file.stream);
        Ok(())
    }

    /// Claims a stream of any number of runs, which nobody will read.
    fn claim_only(&mut self, stream: Stream) -> Result<(), Stop> {
        self.claims.claim(self.device, stream, self.control, |_| ())??;
        Ok(())
    }
}
