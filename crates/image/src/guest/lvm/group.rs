//! What the text says of a volume group: its physical volumes, its logical ones, and which extents are in use.

use std::collections::BTreeMap;
use std::ops::Range;

use super::label::ID_BYTES;
use super::logical::{self, Logical};
use super::text::{Document, Entry, Fault, Section};
use crate::guest::Kept;
use crate::reason;

pub(super) const SECTOR_BYTES: u64 = 512;
/// The tools allow no longer names.
const NAME_BYTES_MAX: usize = 127;
/// Extents are counted in 32 bits, and so are the sectors of one.
pub(super) const COUNT_MAX: u64 = u32::MAX as u64;

/// A volume group whose description holds together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) id: [u8; ID_BYTES],
    /// Counts the changes.
    pub(crate) sequence: u64,
    pub(crate) extent_bytes: u64,
    pub(crate) physical: Vec<Physical>,
    /// Those that their owner sees.
    pub(crate) logical: Vec<Logical>,
}

/// A physical volume.
#[derive(Debug)]
pub(crate) struct Physical {
    pub(crate) id: [u8; ID_BYTES],
    /// Where its extents start, in bytes of the device.
    pub(crate) start_bytes: u64,
    pub(crate) extents: u64,
    /// Extents that belong to a logical volume, hidden ones too: ascending, disjoint.
    pub(crate) used: Vec<Range<u64>>,
}

/// The text says something that cannot be.
pub(super) fn malformed(message: &str) -> Kept {
    Kept::whole(reason::KEPT_METADATA_INVALID, format!("the description of the volume group {message}"))
}

impl Group {
    /// The number of a physical volume.
    pub(crate) fn find(&self, id: &[u8; ID_BYTES]) -> Option<usize> {
        self.physical.iter().position(|volume| volume.id == *id)
    }

    /// Reads the text of a metadata area; the error is the reason to keep all.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Kept> {
        let document = Document::parse(text).map_err(|fault| match fault {
            Fault::Malformed => malformed("cannot be read"),
            Fault::TooLong => {
                let message = "the description of the volume group has more entries than are looked at";
                Kept::whole(reason::KEPT_LIMIT, message)
            }
        })?;
        let root = document.root();
        if root.text("contents") != Some(b"Text Format Volume Group") || root.number("version") != Some(1) {
            let message = "the description of the volume group is of a form that is not known";
            return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
        }
        let mut sections = root.entries().filter_map(|(name, entry)| match entry {
            Entry::Section(section) => Some((name, section)),
            _ => None,
        });
        match (sections.next(), sections.next()) {
            (Some((name, section)), None) => Self::read(name, section),
            _ => Err(malformed("is not of one group")),
        }
    }

    fn read(name: &[u8], section: Section<'_, '_>) -> Result<Self, Kept> {
        let mut group = Self {
            name: self::name(name)?,
            id: id(section)?,
            sequence: section.number("seqno").ok_or_else(|| malformed("has no sequence number"))?,
            extent_bytes: section
                .number("extent_size")
                .filter(|sectors| (1..=COUNT_MAX).contains(sectors))
                .map(|sectors| sectors * SECTOR_BYTES)
                .ok_or_else(|| malformed("has no size of extents"))?,
            physical: Vec::new(),
            logical: Vec::new(),
        };
        check_group(section)?;
        let list = section.section("physical_volumes").ok_or_else(|| malformed("has no physical volumes"))?;
        let mut places = BTreeMap::new();
        for (key, entry) in list.entries() {
            let Entry::Section(volume) = entry else { return Err(malformed("has no physical volumes")) };
            places.insert(key, group.physical.len());
            group.physical.push(Physical::read(volume, group.extent_bytes)?);
        }
        let mut ids: Vec<_> = group.physical.iter().map(|volume| volume.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(malformed("names one physical volume twice"));
        }
        // A group may have no logical volumes yet.
        if section.get("logical_volumes").is_some() {
            let list = section.section("logical_volumes").ok_or_else(|| malformed("cannot be read"))?;
            group.logical = logical::read(list, &places, &mut group.physical, group.extent_bytes)?;
        }
        for volume in &mut group.physical {
            volume.used.sort_unstable_by_key(|range| range.start);
            if volume.used.windows(2).any(|pair| pair[0].end > pair[1].start) {
                return Err(malformed("gives an extent to two volumes"));
            }
        }
        Ok(group)
    }
}

/// States of the whole group in which nothing is looked into.
fn check_group(group: Section<'_, '_>) -> Result<(), Kept> {
    let status = group.words("status").ok_or_else(|| malformed("has no status"))?;
    let flags = optional_words(group, "flags")?;
    for word in status.iter().chain(&flags) {
        match *word {
            // A read-only group has a status of its own for the tools that know it.
            b"RESIZEABLE" | b"READ" | b"WRITE" | b"WRITE_LOCKED" => {}
            b"EXPORTED" => return Err(exported()),
            b"CLUSTERED" | b"SHARED" => return Err(shared()),
            b"PARTIAL" => return Err(missing()),
            b"PVMOVE" => return Err(logical::moving()),
            _ => return Err(unknown_word(word)),
        }
    }
    if group.get("lock_type").is_some() && group.text("lock_type") != Some(b"none") {
        return Err(shared());
    }
    if group.get("format").is_some() && group.text("format") != Some(b"lvm2") {
        let message = "the volume group is of a format that is not known";
        return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
    }
    let known: [&[u8]; 3] = [b"physical_volumes", b"logical_volumes", b"historical_logical_volumes"];
    for (key, entry) in group.entries() {
        if matches!(entry, Entry::Section(_)) && !known.contains(&key) {
            return Err(unknown_word(key));
        }
    }
    Ok(())
}

impl Physical {
    fn read(volume: Section<'_, '_>, extent_bytes: u64) -> Result<Self, Kept> {
        let status = volume.words("status").ok_or_else(|| malformed("has no status"))?;
        let flags = optional_words(volume, "flags")?;
        for word in status.iter().chain(&flags) {
            match *word {
                b"ALLOCATABLE" => {}
                b"EXPORTED" => return Err(exported()),
                b"MISSING" => return Err(missing()),
                _ => return Err(unknown_word(word)),
            }
        }
        let sectors = volume.number("pe_start");
        let extents = volume.number("pe_count").filter(|count| *count <= COUNT_MAX);
        let (sectors, extents) =
            sectors.zip(extents).ok_or_else(|| malformed("does not say where extents are"))?;
        let start_bytes = sectors
            .checked_mul(SECTOR_BYTES)
            // The end must be a number too.
            .filter(|start| {
                extents.checked_mul(extent_bytes).and_then(|bytes| bytes.checked_add(*start)).is_some()
            })
            .ok_or_else(|| malformed("does not say where extents are"))?;
        Ok(Self { id: id(volume)?, start_bytes, extents, used: Vec::new() })
    }
}

fn exported() -> Kept {
    Kept::whole(reason::KEPT_EXPORTED, "the volume group is exported")
}

fn shared() -> Kept {
    Kept::whole(reason::KEPT_SHARED, "the volume group is shared with other hosts")
}

fn missing() -> Kept {
    Kept::whole(reason::KEPT_MISSING_VOLUME, "the volume group misses one of its physical volumes")
}

fn unknown_word(word: &[u8]) -> Kept {
    let word: String =
        String::from_utf8_lossy(word).chars().filter(|char| !char.is_control()).take(32).collect();
    Kept::whole(reason::KEPT_UNKNOWN_FEATURE, format!("the volume group says {word}, which is not known"))
}

/// A list that may be absent.
pub(super) fn optional_words<'t>(section: Section<'_, 't>, key: &str) -> Result<Vec<&'t [u8]>, Kept> {
    match section.get(key) {
        None => Ok(Vec::new()),
        Some(_) => section.words(key).ok_or_else(|| malformed("cannot be read")),
    }
}

/// A name of the few characters that the tools allow.
pub(super) fn name(name: &[u8]) -> Result<String, Kept> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(byte);
    if name.len() > NAME_BYTES_MAX || !name.iter().all(allowed) {
        return Err(malformed("has a name that cannot be"));
    }
    Ok(name.iter().map(|byte| char::from(*byte)).collect())
}

/// An identifier: 32 characters, with dashes between them.
fn id(section: Section<'_, '_>) -> Result<[u8; ID_BYTES], Kept> {
    let text = section.text("id").unwrap_or_default();
    let bare: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').take(ID_BYTES + 1).collect();
    bare.try_into().map_err(|_| malformed("has an identifier that cannot be"))
}
