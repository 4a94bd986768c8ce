//! What stands before and behind a member's content, compared with the directory.

use std::io::{Read, Seek};

use crate::entry::{Entry, FLAGS_COMPARED};
use crate::error::{Error, Result};
use crate::fields::{Extra, Fields, long, read_at};

const SIGNATURE: u32 = 0x0403_4b50;
const HEADER_BYTES: usize = 30;
const DESCRIPTOR: u32 = 0x0807_4b50;

/// Reads the local header of `entry` and returns where its content begins.
pub(crate) fn check_header(source: &mut (impl Read + Seek), entry: &Entry) -> Result<u64> {
    let mut header = [0; HEADER_BYTES];
    read_at(source, &mut header, entry.local_offset)?;
    let mut fields = Fields(&header);
    if fields.u32()? != SIGNATURE {
        return Err(Error::invalid("a member is not where the directory says"));
    }
    let _needed = fields.u16()?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    let _time = fields.u32()?;
    let crc32 = fields.u32()?;
    let (compressed, size) = (fields.u32()?, fields.u32()?);
    let (name_bytes, extra_bytes) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
    let mut rest = vec![0; name_bytes + extra_bytes];
    source.read_exact(&mut rest)?;
    let (name, extra) = rest.split_at(name_bytes);
    let mut zip64 = Extra::parse(extra)?.zip64;
    let size_bytes = long(size, &mut zip64)?;
    let compressed_bytes = long(compressed, &mut zip64)?;

    // With a descriptor the header was written before these were known, and may say nothing of them.
    let agree = |here: u64, there: u64| here == there || (entry.has_descriptor() && here == 0);
    let same = name == entry.name
        && method == entry.method
        && flags & FLAGS_COMPARED == entry.flags & FLAGS_COMPARED
        && agree(crc32.into(), entry.crc32.into())
        && agree(size_bytes, entry.size_bytes)
        && agree(compressed_bytes, entry.compressed_bytes);
    if !same {
        return Err(Error::invalid("a member's header and the directory contradict each other"));
    }
    let header_bytes = (HEADER_BYTES + rest.len()) as u64;
    entry.local_offset.checked_add(header_bytes).ok_or_else(|| Error::invalid("a member lies past all files"))
}

/// Compares what stands between the content of `entry` and whatever follows with the directory: a descriptor, in one of
/// its four forms, or nothing.
pub(crate) fn check_descriptor(
    source: &mut (impl Read + Seek),
    entry: &Entry,
    offset: u64,
    length_bytes: u64,
) -> Result<()> {
    let mut bytes = [0; 24];
    let (has_signature, is_long) = match (entry.has_descriptor(), length_bytes) {
        (false, 0) => return Ok(()),
        (true, 12) => (false, false),
        (true, 16) => (true, false),
        (true, 20) => (false, true),
        (true, 24) => (true, true),
        _ => return Err(Error::invalid("bytes of the archive belong to no member")),
    };
    let bytes = &mut bytes[..length_bytes as usize];
    read_at(source, bytes, offset)?;
    let mut fields = Fields(bytes);
    let signature_is_right = !has_signature || fields.u32()? == DESCRIPTOR;
    let crc32 = fields.u32()?;
    let (compressed, size) = match is_long {
        true => (fields.u64()?, fields.u64()?),
        false => (fields.u32()?.into(), fields.u32()?.into()),
    };
    if signature_is_right
        && (crc32, compressed, size) == (entry.crc32, entry.compressed_bytes, entry.size_bytes)
    {
        return Ok(());
    }
    Err(Error::invalid("what follows a member and the directory contradict each other"))
}
