//! The directory at the end of a zip, and what leads there.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};

use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::fields::{Fields, read_at};
use crate::name;

/// Members of one archive.
pub(crate) const ENTRIES_MAX: u64 = 64;
/// All that is read of a directory: 64 members with long names.
const DIRECTORY_BYTES_MAX: u64 = 4 << 20;

const END: u32 = 0x0605_4b50;
const END_BYTES: usize = 22;
const END_64: u32 = 0x0606_4b50;
const END_64_BYTES: usize = 56;
const LOCATOR: u32 = 0x0706_4b50;
const LOCATOR_BYTES: usize = 20;
const COMMENT_BYTES_MAX: usize = 65_535;

/// All members and where the directory begins, which is where they end.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) entries: Vec<Entry>,
    pub(crate) offset: u64,
}

/// Where the directory is, as one of the records at the end tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    entries: u64,
    length_bytes: u64,
    offset: u64,
}

/// Reads the directory of `source`.
pub(crate) fn read(source: &mut (impl Read + Seek)) -> Result<Directory> {
    let (place, end) = find(source)?;
    if place.entries > ENTRIES_MAX {
        return Err(Error::dangerous("the archive has more than 64 members"));
    }
    if place.length_bytes > DIRECTORY_BYTES_MAX {
        return Err(Error::dangerous("the directory of the archive is too long"));
    }
    // No gap: something could be in it that another reader finds.
    if place.offset.checked_add(place.length_bytes) != Some(end) {
        return Err(Error::invalid("the directory is not where the end of the archive says"));
    }
    let mut bytes = vec![0; place.length_bytes as usize];
    read_at(source, &mut bytes, place.offset)?;
    let mut fields = Fields(&bytes);
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..place.entries {
        let entry = Entry::parse(&mut fields)?;
        if !names.insert(name::folded(&entry.text())) {
            return Err(Error::dangerous("two members of the archive have the same name"));
        }
        entries.push(entry);
    }
    if !fields.is_empty() {
        return Err(Error::invalid("the directory has more members than the end of the archive says"));
    }
    Ok(Directory { entries, offset: place.offset })
}

/// Where the directory is, and where the records begin that tell it.
fn find(source: &mut (impl Read + Seek)) -> Result<(Place, u64)> {
    let file_bytes = source.seek(SeekFrom::End(0))?;
    let tail_bytes = file_bytes.min((LOCATOR_BYTES + END_BYTES + COMMENT_BYTES_MAX) as u64);
    let mut tail = vec![0; tail_bytes as usize];
    let tail_offset = file_bytes - tail_bytes;
    read_at(source, &mut tail, tail_offset)?;
    let at = find_end(&tail)?;
    let end_offset = tail_offset + at as u64;
    let mut fields = Fields(&tail[at + 4..]);
    let (volume, first_volume) = (fields.u16()?, fields.u16()?);
    let (entries_here, entries) = (fields.u16()?, fields.u16()?);
    let (length, offset) = (fields.u32()?, fields.u32()?);

    let locator = at.checked_sub(LOCATOR_BYTES).map(|start| &tail[start..at]);
    let long = match locator {
        Some(locator) if locator.starts_with(&LOCATOR.to_le_bytes()) => {
            Some(long(source, locator, end_offset)?)
        }
        _ => None,
    };
    let told = |short: u64, none: u64, long: Option<u64>| match long {
        // What is there in both forms must agree; the short form may leave it to the long one.
        Some(long) if short == none || short == long => Ok(long),
        None if short != none => Ok(short),
        _ => Err(Error::invalid("the records at the end of the archive contradict each other")),
    };
    let volumes = u64::from(volume.max(first_volume));
    if told(volumes, u16::MAX.into(), long.map(|_| 0))? != 0 {
        return Err(Error::dangerous("the archive has more than one volume"));
    }
    let place = Place {
        entries: told(entries.into(), u16::MAX.into(), long.map(|(place, _)| place.entries))?,
        length_bytes: told(length.into(), u32::MAX.into(), long.map(|(place, _)| place.length_bytes))?,
        offset: told(offset.into(), u32::MAX.into(), long.map(|(place, _)| place.offset))?,
    };
    if entries_here != entries {
        return Err(Error::dangerous("the archive has more than one volume"));
    }
    Ok((place, long.map_or(end_offset, |(_, start)| start)))
}

/// Finds the record that ends the file. A second one that could be it makes two archives of one file.
fn find_end(tail: &[u8]) -> Result<usize> {
    let mut found = None;
    for at in 0..tail.len().saturating_sub(END_BYTES - 1) {
        if !tail[at..].starts_with(&END.to_le_bytes()) {
            continue;
        }
        let comment_bytes = Fields(&tail[at + 20..]).u16()?;
        if at + END_BYTES + usize::from(comment_bytes) == tail.len() && found.replace(at).is_some() {
            return Err(Error::invalid("the archive ends in two ways"));
        }
    }
    found.ok_or_else(|| Error::invalid("the file is no zip, or is cut short"))
}

/// The long form of the record, and where it begins. It stands right before its locator, which ends at `end_offset`.
fn long(source: &mut (impl Read + Seek), locator: &[u8], end_offset: u64) -> Result<(Place, u64)> {
    let mut fields = Fields(&locator[4..]);
    let (volume, start, volumes) = (fields.u32()?, fields.u64()?, fields.u32()?);
    if volume != 0 || volumes > 1 {
        return Err(Error::dangerous("the archive has more than one volume"));
    }
    let expected = end_offset.checked_sub((LOCATOR_BYTES + END_64_BYTES) as u64);
    if expected != Some(start) {
        return Err(Error::invalid("the long record at the end of the archive is not where it belongs"));
    }
    let mut record = [0; END_64_BYTES];
    read_at(source, &mut record, start)?;
    let mut fields = Fields(&record);
    if fields.u32()? != END_64 || fields.u64()? != END_64_BYTES as u64 - 12 {
        return Err(Error::invalid("the long record at the end of the archive is damaged"));
    }
    let _versions = fields.u32()?;
    let (volume, first_volume) = (fields.u32()?, fields.u32()?);
    let (entries_here, entries) = (fields.u64()?, fields.u64()?);
    if volume != 0 || first_volume != 0 || entries_here != entries {
        return Err(Error::dangerous("the archive has more than one volume"));
    }
    Ok((Place { entries, length_bytes: fields.u64()?, offset: fields.u64()? }, start))
}
