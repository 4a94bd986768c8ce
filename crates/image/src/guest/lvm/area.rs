//! Metadata areas: a header, and a ring of texts of which the header names the one in force.

use super::checksum::checksum;
use super::label::Place;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

const HEADER_BYTES: usize = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
const FLAG_IGNORED: u32 = 1;
/// Where the places of the text in force, of the one that is being written, and of none more are.
const COMMITTED: usize = 40;
const PENDING: usize = 64;
const NONE: usize = 88;
/// Tools give a text less than half of the area, which has 1 MiB unless asked otherwise.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The text in force in the area at `place`; `None` when it has none. The inner error is the reason to keep all.
pub(crate) fn read(device: &Device<'_>, place: Place) -> Result<Result<Option<Vec<u8>>, Kept>> {
    let Some(header) = device.read::<HEADER_BYTES>(place.offset)? else {
        let message = "a metadata area lies outside the device";
        return Ok(Err(Kept::whole(reason::KEPT_GEOMETRY, message)));
    };
    let span = match text_span(&header, place, device.length_bytes()) {
        Ok(Some(span)) => span,
        Ok(None) => return Ok(Ok(None)),
        Err(kept) => return Ok(Err(kept)),
    };
    let mut text = vec![0; span.length as usize];
    let (head, tail) = text.split_at_mut((span.length - span.wrapped) as usize);
    let whole = device.read_at(head, place.offset + span.offset)?
        && device.read_at(tail, place.offset + HEADER_BYTES as u64)?
        && checksum(&text) == span.checksum;
    Ok(if whole {
        Ok(Some(text))
    } else {
        let message = "the checksum of the description of the volume group is wrong";
        Err(Kept::whole(reason::KEPT_CHECKSUM, message))
    })
}

/// Where a text lies in its area.
struct Span {
    offset: u64,
    length: u64,
    /// Bytes at its end that lie at the start of the ring.
    wrapped: u64,
    checksum: u32,
}

fn text_span(
    header: &[u8; HEADER_BYTES],
    place: Place,
    device_bytes: u64,
) -> std::result::Result<Option<Span>, Kept> {
    if checksum(&header[4..]) != header.u32_at(0) || header[4..20] != *MAGIC {
        return Err(Kept::whole(reason::KEPT_CHECKSUM, "the header of a metadata area is damaged"));
    }
    let flags = header.u32_at(COMMITTED + 20);
    if header.u32_at(20) != VERSION || flags & !FLAG_IGNORED != 0 || header.u64_at(NONE) != 0 {
        let message = "a metadata area is of a kind that is not known";
        return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
    }
    let inside = place.offset.checked_add(place.length).is_some_and(|end| end <= device_bytes);
    if header.u64_at(24) != place.offset || header.u64_at(32) != place.length || !inside {
        let message = "the header of a metadata area is of another place";
        return Err(Kept::whole(reason::KEPT_GEOMETRY, message));
    }
    if flags & FLAG_IGNORED != 0 {
        return Ok(None);
    }
    let (offset, length) = (header.u64_at(COMMITTED), header.u64_at(COMMITTED + 8));
    // The tools leave the place of the text in force there, too, when they are done.
    if header.u64_at(PENDING + 8) != 0 && header.u64_at(PENDING) != offset {
        let message = "a change of the volume group was begun and not completed";
        return Err(Kept::whole(reason::KEPT_CHANGE_UNDER_WAY, message));
    }
    if offset == 0 && length == 0 {
        return Ok(None);
    }
    if length > TEXT_BYTES_MAX {
        let message = "the description of the volume group is longer than what is read";
        return Err(Kept::whole(reason::KEPT_LIMIT, message));
    }
    let ring_start = HEADER_BYTES as u64;
    let wrapped = offset.checked_add(length).map(|end| end.saturating_sub(place.length));
    match wrapped {
        Some(wrapped)
            if offset >= ring_start
                && offset < place.length
                && length > 0
                && wrapped <= offset - ring_start =>
        {
            Ok(Some(Span { offset, length, wrapped, checksum: header.u32_at(COMMITTED + 16) }))
        }
        _ => {
            let message = "the description of the volume group lies outside its area";
            Err(Kept::whole(reason::KEPT_GEOMETRY, message))
        }
    }
}
