//! Which file systems the engine reads, and what becomes of the rest.

use super::device::Device;
use super::signature::{self, Signature};
use super::table::{self, Partition};
use super::{
    ExtraGains, FreeSpace, Kept, Part, PartSummary, btrfs, exfat, ext, fat, lvm, ntfs, swap, whole_disk, xfs,
};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::reason;

/// What a reader found.
#[derive(Debug)]
pub(crate) struct FileSystem {
    /// The content's name, finer than the signature's: `ext3` for `ext`.
    pub(crate) content: String,
    /// The label that its owner gave it.
    pub(crate) label: Option<String>,
    /// Bytes that the guest has freed.
    pub(crate) free_bytes: u64,
    /// What was left alone inside, and why.
    pub(crate) kept: Vec<Kept>,
    /// Answers for the free space; `None` when all is kept.
    pub(crate) free: Option<Box<dyn FreeSpace>>,
}

/// Why a reader ends early: what its steps return, so that `?` serves for both.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something is not as it should be: all is kept, for this reason.
    Kept(Kept),
    /// The image cannot be read, or the caller cancelled.
    Failed(Error),
}

impl From<Kept> for Stop {
    fn from(kept: Kept) -> Self {
        Self::Kept(kept)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads the free space of one kind of file system.
pub(crate) struct Reader {
    /// The signature's name.
    signature: &'static str,
    open: Open,
}

/// How a reader is called.
enum Open {
    /// It knows of free space only.
    Free(fn(&Device<'_>, &Control) -> Result<FileSystem>),
    /// It knows of more that can be dropped.
    Extra(fn(&Device<'_>, ExtraGains, &Control) -> Result<FileSystem>),
}

/// Every file system whose free space is read. What is signed and not listed is kept whole.
pub(crate) const READERS: &[Reader] = &[
    Reader { signature: "btrfs", open: Open::Free(btrfs::open) },
    Reader { signature: "exfat", open: Open::Free(exfat::open) },
    Reader { signature: "ext", open: Open::Extra(ext::open) },
    Reader { signature: "fat", open: Open::Free(fat::open) },
    Reader { signature: VOLUME_MANAGER, open: Open::Extra(lvm::open) },
    Reader { signature: "ntfs", open: Open::Free(ntfs::open) },
    Reader { signature: "swap", open: Open::Free(swap::open) },
    Reader { signature: "xfs", open: Open::Free(xfs::open) },
];

/// The one content that is divided into volumes.
const VOLUME_MANAGER: &str = "lvm2";

/// A part that is not looked into at all.
pub(crate) fn closed_part(partition: Partition) -> Part {
    part(partition, nothing("unknown", Vec::new()))
}

/// Looks into a part.
pub(crate) fn scan_part(
    device: &Device<'_>,
    partition: Partition,
    extra: ExtraGains,
    control: &Control,
) -> Result<Part> {
    let found = signature::find(device)?;
    let system = match &partition.closed {
        Some(kept) => nothing(found.first().map_or("unknown", |first| first.name), vec![kept.clone()]),
        None => open_only(device, &found, extra, control)?,
    };
    Ok(part(partition, system))
}

/// Looks into a logical volume: into file systems, but not into what would divide it once more.
pub(crate) fn look_into_volume(
    device: &Device<'_>,
    extra: ExtraGains,
    control: &Control,
) -> Result<FileSystem> {
    let table = table::read(device)?;
    if table.table.is_some() {
        let message = "a partition table inside a volume is not looked into";
        return Ok(nothing("unknown", vec![Kept::whole(reason::KEPT_NESTED, message)]));
    }
    match signature::find(device)?.as_slice() {
        [one] if one.name == VOLUME_MANAGER => {
            let message = "a physical volume inside a volume is not looked into";
            Ok(nothing(one.name, vec![Kept::whole(reason::KEPT_NESTED, message)]))
        }
        found => open_only(device, found, extra, control),
    }
}

/// Opens what is there when it is one thing and no more.
fn open_only(
    device: &Device<'_>,
    found: &[Signature],
    extra: ExtraGains,
    control: &Control,
) -> Result<FileSystem> {
    Ok(match found {
        [] => {
            let kept = Kept::whole(reason::KEPT_UNKNOWN_CONTENT, "no file system was recognised");
            nothing("unknown", vec![kept])
        }
        [one] => open(device, one, extra, control)?,
        [first, second, ..] => {
            let message = format!("the signatures of {} and {} in one place", first.name, second.name);
            let mut kept = vec![Kept::whole(reason::KEPT_TWO_SIGNATURES, message)];
            // Whichever is in force: what would keep the whole disk still does.
            let whole_disk = found.iter().filter_map(|one| Some(closed(one, one.closed?)));
            kept.extend(whole_disk.filter(|kept| whole_disk::is_kept_by(&kept.reason)));
            nothing("unknown", kept)
        }
    })
}

fn open(
    device: &Device<'_>,
    signature: &Signature,
    extra: ExtraGains,
    control: &Control,
) -> Result<FileSystem> {
    if let Some(reason) = signature.closed {
        return Ok(nothing(signature.name, vec![closed(signature, reason)]));
    }
    match READERS.iter().find(|reader| reader.signature == signature.name).map(|reader| &reader.open) {
        Some(Open::Free(open)) => keep_verified(device, open(device, control)?),
        Some(Open::Extra(open)) => keep_verified(device, open(device, extra, control)?),
        None => {
            let message = format!("the free space of {} is not read", signature.name);
            Ok(nothing(signature.name, vec![Kept::whole(reason::KEPT_NO_READER, message)]))
        }
    }
}

fn closed(signature: &Signature, reason: &'static str) -> Kept {
    Kept::whole(reason, format!("the content of {} is not looked into", signature.name))
}

/// Keeps all of a file system that a hash tree behind it vouches for.
fn keep_verified(device: &Device<'_>, system: FileSystem) -> Result<FileSystem> {
    let end = system.free.as_ref().and_then(|free| free.end_bytes());
    if !end.map_or(Ok(false), |end| signature::is_hash_tree(device, end))? {
        return Ok(system);
    }
    let message = "a hash tree behind the file system vouches for every block of it, the free ones too";
    let kept = vec![Kept::whole(reason::KEPT_VERIFIED, message)];
    Ok(FileSystem { label: system.label, ..nothing(&system.content, kept) })
}

/// A content of which all is kept.
pub(crate) fn nothing(content: &str, kept: Vec<Kept>) -> FileSystem {
    FileSystem { content: content.to_owned(), label: None, free_bytes: 0, kept, free: None }
}

fn part(partition: Partition, system: FileSystem) -> Part {
    let summary = PartSummary {
        index: partition.index,
        name: partition.name,
        type_id: partition.type_id,
        start_bytes: partition.start_bytes,
        length_bytes: partition.length_bytes,
        content: system.content,
        label: system.label,
        free_bytes: system.free_bytes,
        kept: system.kept,
        extra: system.free.as_ref().and_then(|free| free.extra()).cloned(),
        volumes: system.free.as_ref().map(|free| free.volumes().to_vec()).unwrap_or_default(),
    };
    Part { summary, free: system.free }
}
