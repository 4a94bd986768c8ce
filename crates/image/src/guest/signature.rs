//! What a partition holds, by its signatures.
//!
//! All of them are looked for: two on one device (say an old volume label under a newer file system) mean that nobody
//! can tell which is in force.

use super::device::{Device, Fields};
use crate::error::Result;
use crate::reason;

/// Something that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Name of the content, as users know it.
    pub(crate) name: &'static str,
    /// Why the content is never looked into.
    pub(crate) closed: Option<&'static str>,
}

/// Page sizes of the machines that Linux runs on: swap space is marked at the end of its first page.
pub(crate) const SWAP_PAGES: [u64; 4] = [4096, 8192, 16_384, 65_536];

/// What a mark of swap space says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SwapMark {
    /// The version since Linux 2.2.
    Current,
    /// The version before.
    Old,
    /// A hibernated system lies there.
    Hibernated,
}

/// Bytes that are always at one place.
struct Magic {
    name: &'static str,
    offset: u64,
    bytes: &'static [u8],
    closed: Option<&'static str>,
}

const fn open(name: &'static str, offset: u64, bytes: &'static [u8]) -> Magic {
    Magic { name, offset, bytes, closed: None }
}

const fn closed(name: &'static str, offset: u64, bytes: &'static [u8], reason: &'static str) -> Magic {
    Magic { name, offset, bytes, closed: Some(reason) }
}

const BCACHE: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
const MDRAID: &[u8] = b"\xfc\x4e\x2b\xa9";
/// How the superblock of a hash tree of dm-verity begins.
const VERITY: &[u8] = b"verity\0\0";
const LONGEST_MAGIC: usize = 16;

const MAGICS: &[Magic] = &[
    open("ext", 1080, b"\x53\xef"),
    open("xfs", 0, b"XFSB"),
    open("btrfs", 0x10040, b"_BHRfS_M"),
    open("ntfs", 3, b"NTFS    "),
    open("exfat", 3, b"EXFAT   "),
    open("lvm2", 24, b"LVM2 001"),
    open("lvm2", 536, b"LVM2 001"),
    open("lvm2", 1048, b"LVM2 001"),
    open("lvm2", 1560, b"LVM2 001"),
    closed("luks", 0, b"LUKS\xba\xbe", reason::KEPT_ENCRYPTED),
    closed("luks", 0x4000, b"SKUL\xba\xbe", reason::KEPT_ENCRYPTED),
    closed("bitlocker", 3, b"-FVE-FS-", reason::KEPT_ENCRYPTED),
    closed("mdraid", 0, MDRAID, reason::KEPT_VOLUME_MANAGER),
    closed("mdraid", 4096, MDRAID, reason::KEPT_VOLUME_MANAGER),
    closed("bcache", 4120, BCACHE, reason::KEPT_VOLUME_MANAGER),
    closed("bcachefs", 4120, BCACHEFS, reason::KEPT_NO_READER),
    closed("ldm", 3072, b"PRIVHEAD", reason::KEPT_VOLUME_MANAGER),
    closed("vmfs", 0x10_0000, b"\x0d\xd0\x01\xc0", reason::KEPT_NO_READER),
    closed("refs", 3, b"ReFS\0\0\0\0", reason::KEPT_NO_READER),
    closed("apfs", 32, b"NXSB", reason::KEPT_NO_READER),
    closed("hfsplus", 1024, b"H+\x00\x04", reason::KEPT_NO_READER),
    closed("hfsplus", 1024, b"HX\x00\x05", reason::KEPT_NO_READER),
    closed("hfs", 1024, b"BD", reason::KEPT_NO_READER),
    closed("ufs", 9564, b"\x54\x19\x01\x00", reason::KEPT_NO_READER),
    closed("ufs", 9564, b"\x19\x01\x54\x19", reason::KEPT_NO_READER),
    closed("ufs", 66_908, b"\x19\x01\x54\x19", reason::KEPT_NO_READER),
    closed("ufs", 263_516, b"\x19\x01\x54\x19", reason::KEPT_NO_READER),
    closed("f2fs", 1024, b"\x10\x20\xf5\xf2", reason::KEPT_NO_READER),
    closed("jfs", 32_768, b"JFS1", reason::KEPT_NO_READER),
    closed("reiserfs", 8244, b"ReIsErFs", reason::KEPT_NO_READER),
    closed("reiserfs", 65_588, b"ReIsErFs", reason::KEPT_NO_READER),
    closed("reiserfs", 65_588, b"ReIsEr2Fs", reason::KEPT_NO_READER),
    closed("reiserfs", 65_588, b"ReIsEr3Fs", reason::KEPT_NO_READER),
    closed("reiser4", 65_536, b"ReIsEr4", reason::KEPT_NO_READER),
    // With the revision before the magic, which alone is two bytes in the middle of an ext4 block count.
    closed("nilfs2", 1024, b"\x02\0\0\0\0\0\x34\x34", reason::KEPT_NO_READER),
    closed("squashfs", 0, b"hsqs", reason::KEPT_NO_READER),
    closed("erofs", 1024, b"\xe2\xe1\xf5\xe0", reason::KEPT_NO_READER),
    closed("iso9660", 32_769, b"CD001", reason::KEPT_NO_READER),
    closed("udf", 32_769, b"BEA01", reason::KEPT_NO_READER),
    closed("stratis", 520, b"!Stra0tis\x86\xff\x02^", reason::KEPT_VOLUME_MANAGER),
    closed("vdo", 0, b"dmvdo001", reason::KEPT_VOLUME_MANAGER),
    closed("dm-verity", 0, VERITY, reason::KEPT_VERIFIED),
];

/// Everything that `device` is signed as, each name once.
pub(crate) fn find(device: &Device<'_>) -> Result<Vec<Signature>> {
    let mut found = Vec::new();
    let mut add = |name, closed| {
        if !found.iter().any(|signature: &Signature| signature.name == name) {
            found.push(Signature { name, closed });
        }
    };
    let mut buffer = [0; LONGEST_MAGIC];
    for magic in MAGICS {
        let buffer = &mut buffer[..magic.bytes.len()];
        if device.read_at(buffer, magic.offset)? && buffer == magic.bytes {
            add(magic.name, magic.closed);
        }
    }
    if is_fat(device)? {
        add("fat", None);
    }
    if let Some(hibernated) = swap(device)? {
        add("swap", hibernated.then_some(reason::KEPT_HIBERNATED));
    }
    if is_mdraid_at_end(device)? {
        add("mdraid", Some(reason::KEPT_VOLUME_MANAGER));
    }
    if is_zfs(device)? {
        add("zfs", Some(reason::KEPT_VOLUME_MANAGER));
    }
    if is_drbd(device)? {
        add("drbd", Some(reason::KEPT_VOLUME_MANAGER));
    }
    if is_android_verified(device)? {
        add("avb", Some(reason::KEPT_VERIFIED));
    }
    if is_firmware_raid(device)? {
        add("firmware-raid", Some(reason::KEPT_VOLUME_MANAGER));
    }
    Ok(found)
}

/// The boot record of FAT has its type as text; which width it really is the cluster count decides.
fn is_fat(device: &Device<'_>) -> Result<bool> {
    let Some(sector) = device.read::<512>(0)? else { return Ok(false) };
    let named = sector[54..62].starts_with(b"FAT") || sector[82..90].starts_with(b"FAT");
    let jumps = sector[0] == 0xeb || sector[0] == 0xe9;
    let sector_bytes = sector.u16_at(11);
    let plausible = matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
        && sector[13].is_power_of_two()
        && (1..=2).contains(&sector[16])
        && sector.u16_at(14) != 0
        && (sector[21] == 0xf0 || sector[21] >= 0xf8);
    Ok(plausible && (named || jumps && sector[510..] == [0x55, 0xaa]))
}

/// Whether there is swap space, and then whether a hibernated system lies in it by any of the marks.
fn swap(device: &Device<'_>) -> Result<Option<bool>> {
    let mut found = None;
    for page in SWAP_PAGES {
        if let Some(mark) = swap_mark(device, page)? {
            found = Some(found == Some(true) || mark == SwapMark::Hibernated);
        }
    }
    Ok(found)
}

/// The mark of swap space at the end of a first page of `page` bytes.
pub(crate) fn swap_mark(device: &Device<'_>, page: u64) -> Result<Option<SwapMark>> {
    const HIBERNATED: [&[u8]; 5] =
        [b"LINHIB0001", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"];
    let Some(mark) = device.read::<10>(page - 10)? else { return Ok(None) };
    Ok(match &mark {
        b"SWAPSPACE2" => Some(SwapMark::Current),
        b"SWAP-SPACE" => Some(SwapMark::Old),
        _ if HIBERNATED.iter().any(|start| mark.starts_with(start)) => Some(SwapMark::Hibernated),
        _ => None,
    })
}

/// Versions 0.90 and 1.0 keep their superblock near the end.
fn is_mdraid_at_end(device: &Device<'_>) -> Result<bool> {
    const RESERVED: u64 = 64 << 10;
    let old = (device.length_bytes() & !(RESERVED - 1)).checked_sub(RESERVED);
    let new = (device.length_bytes() / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    for place in [old, new].into_iter().flatten() {
        if let Some(magic) = device.read::<4>(place)? {
            // 0.90 is in the byte order of the machine that made it.
            if magic == *MDRAID || magic.iter().rev().eq(MDRAID) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Four labels, two at each end; each has 128 slots for the root of the pool.
fn is_zfs(device: &Device<'_>) -> Result<bool> {
    const LABEL: u64 = 256 << 10;
    const SLOTS: u64 = 128 << 10;
    const MAGIC: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();
    let end = device.length_bytes() & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    let mut slots = vec![0; (LABEL - SLOTS) as usize];
    for label in labels.into_iter().flatten() {
        if device.read_at(&mut slots, label + SLOTS)?
            && slots.chunks_exact(1024).any(|slot| slot[..8] == MAGIC || slot[..8].iter().rev().eq(&MAGIC))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Internal metadata lie in the last 4 KiB.
fn is_drbd(device: &Device<'_>) -> Result<bool> {
    let aligned = device.length_bytes() & !4095;
    let Some(block) = aligned.checked_sub(4096).map(|place| device.read::<512>(place)).transpose()?.flatten()
    else {
        return Ok(false);
    };
    let magics = [[0x83, 0x74, 0x02, 0x67], [0x83, 0x74, 0x02, 0x6b], [0x83, 0x74, 0x02, 0x6d]];
    Ok(block[..128].chunks_exact(4).any(|word| magics.iter().any(|magic| word == magic)))
}

/// Whether a hash tree of dm-verity begins at `place`, as it does behind a file system that it vouches for.
pub(crate) fn is_hash_tree(device: &Device<'_>, place: u64) -> Result<bool> {
    Ok(device.read::<8>(place)?.is_some_and(|start| start == *VERITY))
}

/// Android keeps the place of the hash tree in the last 64 bytes of the partition ("Android Verified Boot 2.0").
fn is_android_verified(device: &Device<'_>) -> Result<bool> {
    Ok(device.read_from_end::<4>(64)?.is_some_and(|magic| magic == *b"AVBf"))
}

/// DDF and Intel's metadata at the end of the disk.
fn is_firmware_raid(device: &Device<'_>) -> Result<bool> {
    let ddf = device.read_from_end::<4>(512)?.is_some_and(|magic| magic == [0xde, 0x11, 0xde, 0x11]);
    let intel = device.read_from_end::<24>(1024)?.is_some_and(|magic| magic == *b"Intel Raid ISM Cfg Sig. ");
    Ok(ddf || intel)
}
