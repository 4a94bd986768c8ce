//! The files of the system that come first: the MFT, its mirror, and what `$Volume` says of the state.

use super::boot::Boot;
use super::record::{Record, kind};
use super::stream::{Mft, Stream};
use super::{Stop, geometry};
use crate::error::Result as IoResult;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Numbers of the files of the system.
pub(crate) mod file {
    pub(crate) const MFT: u64 = 0;
    pub(crate) const MIRROR: u64 = 1;
    pub(crate) const JOURNAL: u64 = 2;
    pub(crate) const VOLUME: u64 = 3;
    pub(crate) const ROOT: u64 = 5;
    pub(crate) const BITMAP: u64 = 6;
}

/// Records that the mirror always has; with large clusters there are more, which Windows 10 no longer keeps up.
const MIRRORED: u64 = 4;

/// The file system was in use, or must be looked at first: dirty, resize of the journal, upgrade, removal of the USN
/// journal, repair of object ids, a crash because of damage, full check, check under way, changed by a check.
const FLAGS_NOT_CLEAN: u16 = 0x1 | 0x2 | 0x4 | 0x10 | 0x20 | 0x40 | 0x100 | 0x4000 | 0x8000;
/// Mounted by NT4 once, and a persistent state that is about names only. Other bits are not understood.
const FLAGS_HARMLESS: u16 = 0x8 | 0x80;

/// Where shadow copies are registered: the last sector of the boot file (libvshadow, "Volume header").
const SNAPSHOTS_OFFSET: u64 = 0x1e00;
/// 3808876b-c176-4e48-b7ae-04046e6cc752 as it lies on disk.
const SNAPSHOTS_ID: [u8; 16] = *b"\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52";

/// A file system whose MFT was found.
pub(crate) struct Volume<'a> {
    pub(crate) device: Device<'a>,
    pub(crate) boot: Boot,
    mft: Stream,
}

impl<'a> Volume<'a> {
    /// Reads the boot sector and finds the whole MFT.
    pub(crate) fn open(device: &Device<'a>) -> Result<Self, Stop> {
        let boot = Boot::read(device)?;
        let mut bytes = vec![0; boot.record_bytes];
        if !device.read_at(&mut bytes, boot.mft_cluster * boot.cluster_bytes)? {
            return Err(geometry("the MFT lies outside the file system"));
        }
        let record = Record::parse(bytes, file::MFT, boot.clusters)?;
        let mft = Stream::open(device, None, &boot, &record, (kind::DATA, &[]))?;
        let mft = mft.filter(|mft| mft.first_cluster() == Some(boot.mft_cluster));
        let mft = mft.ok_or_else(|| geometry("the MFT does not begin where the boot sector says"))?;
        Ok(Self { device: *device, boot, mft })
    }

    /// Reads a record that must be in use and sound.
    pub(crate) fn read_record(&self, number: u64) -> Result<Record, Stop> {
        Mft { stream: &self.mft, boot: &self.boot }.read(&self.device, number)
    }

    /// The attribute of one type and name; `None` when the file has none.
    pub(crate) fn find_stream(&self, base: &Record, kind: u32, name: &[u8]) -> Result<Option<Stream>, Stop> {
        let mft = Mft { stream: &self.mft, boot: &self.boot };
        Stream::open(&self.device, Some(&mft), &self.boot, base, (kind, name))
    }

    /// The unnamed data of a file of the system, which must be there.
    pub(crate) fn open_data(&self, number: u64) -> Result<Stream, Stop> {
        let record = self.read_record(number)?;
        let stream = self.find_stream(&record, kind::DATA, &[])?;
        stream.ok_or_else(|| geometry("a file of the system has no data"))
    }

    /// The MFT.
    pub(crate) fn mft(&self) -> &Stream {
        &self.mft
    }

    /// The reason to keep all when the mirror does not agree with the first records.
    pub(crate) fn check_mirror(&self) -> Result<(), Stop> {
        let mirror = self.open_data(file::MIRROR)?;
        if mirror.first_cluster() != Some(self.boot.mirror_cluster) {
            return Err(geometry("the mirror of the MFT is not where the boot sector says"));
        }
        let mirror = Mft { stream: &mirror, boot: &self.boot };
        for number in 0..MIRRORED {
            let record = self.read_record(number)?;
            if record.content() != mirror.read(&self.device, number)?.content() {
                return Err(geometry("the MFT and its mirror disagree"));
            }
        }
        Ok(())
    }

    /// The reason to keep all when `$Volume` does not say that the file system is clean and known.
    pub(crate) fn check_state(&self) -> Result<(), Stop> {
        let record = self.read_record(file::VOLUME)?;
        let value = record.value(kind::VOLUME_INFORMATION)?.filter(|value| value.len() >= 12);
        let value = value.ok_or_else(|| geometry("the volume has no version"))?;
        let (version, flags) = ((value[8], value[9]), value.u16_at(10));
        if flags & FLAGS_NOT_CLEAN != 0 {
            let message = format!("the volume is marked as dirty or to be checked ({flags:#06x})");
            return Err(Stop::Kept(Kept::whole(reason::KEPT_NOT_CLEAN, message)));
        }
        if !matches!(version, (1, 2) | (3, 0 | 1)) || flags & !FLAGS_HARMLESS != 0 {
            let (major, minor) = version;
            let message = format!("version {major}.{minor} with flags {flags:#06x} is not known");
            return Err(Stop::Kept(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message)));
        }
        Ok(())
    }

    /// The label, when there is one that can be read.
    pub(crate) fn read_label(&self) -> IoResult<Option<String>> {
        let label = self.read_record(file::VOLUME).and_then(|record| {
            let letters = record.value(kind::VOLUME_NAME)?.unwrap_or_default().chunks_exact(2);
            let letters: Vec<u16> = letters.map(|letter| letter.u16_at(0)).collect();
            Ok((!letters.is_empty()).then(|| String::from_utf16_lossy(&letters)))
        });
        match label {
            Ok(label) => Ok(label),
            Err(Stop::Kept(_)) => Ok(None),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// The reason to keep all when shadow copies exist: they read from the volume what was not overwritten since, the
    /// clusters of deleted files included.
    pub(crate) fn check_snapshots(&self) -> Result<(), Stop> {
        let Some(header) = self.device.read::<96>(SNAPSHOTS_OFFSET)? else { return Ok(()) };
        // No catalogue, no copies; unless they are on another volume.
        let elsewhere = header[80..96] != header[64..80] && header[80..96].iter().any(|byte| *byte != 0);
        if header[..16] == SNAPSHOTS_ID && (header.u64_at(48) != 0 || elsewhere) {
            return Err(snapshots());
        }
        Ok(())
    }
}

/// The reason that shadow copies give.
pub(crate) fn snapshots() -> Stop {
    let message = "shadow copies still use clusters of deleted files";
    Stop::Kept(Kept::whole(reason::KEPT_SHADOW_COPIES, message))
}
