//! Container formats of disk images.
//!
//! A format is decided once, by [`detect`] or by whoever hands the image in, and passed along from there: bytes of a
//! guest can look like any format, so nothing here guesses when it was told.

pub mod qcow2;
mod raw;
pub mod signature;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::qcow2::Qcow2;
pub use self::raw::Raw;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::reason;
use crate::storage::Storage;

/// A container format that the engine knows by name. It reads [`Format::Raw`], [`Format::Iso`] and [`Format::Qcow2`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// The bytes of the disk, nothing else.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
    /// The first qcow format.
    Qcow1,
    /// QED.
    Qed,
    /// VMware's disk: sparse, stream-optimised or a text descriptor.
    Vmdk,
    /// Virtual PC's disk, fixed or dynamic.
    Vhd,
    /// Hyper-V's disk.
    Vhdx,
    /// VirtualBox's disk.
    Vdi,
    /// Parallels' disk.
    Parallels,
    /// Compressed loop.
    Cloop,
    /// Bochs' growing disk.
    Bochs,
    /// Apple's disk image.
    Dmg,
    /// A LUKS container.
    Luks,
    /// An ISO 9660 file system, hybrid install media included.
    Iso,
}

impl Format {
    /// Every format, in the order in which [`detect`] prefers them; raw, which has no signature, comes last.
    pub const ALL: [Self; 14] = [
        Self::Qcow2,
        Self::Qcow1,
        Self::Vmdk,
        Self::Vhdx,
        Self::Vhd,
        Self::Vdi,
        Self::Qed,
        Self::Parallels,
        Self::Cloop,
        Self::Bochs,
        Self::Dmg,
        Self::Luks,
        Self::Iso,
        Self::Raw,
    ];

    /// The name that qemu-img prints; `iso` for what it has no name for.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Qcow1 => "qcow",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Parallels => "parallels",
            Self::Cloop => "cloop",
            Self::Bochs => "bochs",
            Self::Dmg => "dmg",
            Self::Luks => "luks",
            Self::Iso => "iso",
        }
    }

    /// Whether [`open`] reads images of this format.
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Raw | Self::Iso | Self::Qcow2)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;

    /// Takes the names of [`Format::as_str`] and the common ones beside them (`qcow1`, `vhd`), in lower case.
    fn from_str(name: &str) -> Result<Self> {
        let alias = match name {
            "qcow1" => Some(Self::Qcow1),
            "vhd" => Some(Self::Vhd),
            _ => None,
        };
        alias.or_else(|| Self::ALL.into_iter().find(|format| format.as_str() == name)).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                reason::UNSUPPORTED_FORMAT,
                "the name of the format is not known",
            )
        })
    }
}

/// An open image.
#[derive(Clone)]
#[non_exhaustive]
pub struct Image {
    /// The format it was opened as.
    pub format: Format,
    /// What the guest sees.
    pub disk: Arc<dyn Disk>,
    /// The same disk as a qcow2 image, for those who need its header, snapshots or compressed streams.
    pub qcow2: Option<Arc<Qcow2>>,
}

impl fmt::Debug for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Image")
            .field("format", &self.format)
            .field("virtual_size_bytes", &self.disk.virtual_size_bytes())
            .finish_non_exhaustive()
    }
}

/// Tells the format from the content: the first match in the order of [`Format::ALL`], raw when nothing matches.
///
/// The content of a raw disk belongs to its guest, who can write any header into the first sector. So this is for
/// bytes whose format nobody has declared yet, once; afterwards the answer is kept and handed to [`open`].
pub fn detect(storage: &dyn Storage) -> Result<Format> {
    Ok(signature::find(storage)?.first().map_or(Format::Raw, |found| found.format))
}

/// Opens an image for reading. A given `format` is taken at its word: the content is not probed.
///
/// No file but `storage` is ever read: an image that needs another one (a backing file, an external data file), a key
/// or a feature the engine does not know is refused with the reason.
pub fn open(storage: Arc<dyn Storage>, format: Option<Format>) -> Result<Image> {
    open_with(storage, format, |_| Ok(()))
}

/// Opens an image that another one is made of, as [`open`] does. What it promises must be there: nothing is read as zeros for
/// want of it.
pub(crate) fn open_whole(storage: Arc<dyn Storage>, format: Option<Format>) -> Result<Image> {
    open_with(storage, format, Qcow2::demand_all)
}

fn open_with(
    storage: Arc<dyn Storage>,
    format: Option<Format>,
    prepare: impl FnOnce(&mut Qcow2) -> Result<()>,
) -> Result<Image> {
    let format = match format {
        Some(format) => format,
        None => detect(&*storage)?,
    };
    match format {
        Format::Raw | Format::Iso => Ok(Image { format, disk: Arc::new(Raw::new(storage)), qcow2: None }),
        Format::Qcow2 => {
            let mut image = Qcow2::open(storage)?;
            prepare(&mut image)?;
            let image = Arc::new(image);
            Ok(Image { format, disk: Arc::clone(&image) as Arc<dyn Disk>, qcow2: Some(image) })
        }
        other => Err(Error::new(
            ErrorKind::Unsupported,
            reason::UNSUPPORTED_FORMAT,
            format!("images of the format {other} are not read"),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_go_both_ways() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse::<Format>().unwrap(), format);
        }
        assert_eq!("vhd".parse::<Format>().unwrap(), Format::Vhd);
        assert_eq!("QCOW2".parse::<Format>().unwrap_err().reason, reason::UNSUPPORTED_FORMAT);
    }
}
