//! Whether `$LogFile` says that the volume was closed: the rule of ntfs-3g, which looks at the two restart pages only.
//! Offsets as in its `logfile.h`.

use super::record::fix_up;
use super::stream::Stream;
use super::volume::{Volume, file};
use super::{Stop, geometry};
use crate::guest::Kept;
use crate::guest::device::Fields;
use crate::reason;

/// Largest page of any machine that ran Windows.
const PAGE_BYTES_MAX: usize = 1 << 16;
/// Two restart pages and the fewest pages of records.
const LENGTH_MIN: u64 = 50 * 4096;
const NO_CLIENT: u16 = 0xffff;
const FLAG_CLEAN: u16 = 2;

/// What a restart page says.
#[derive(Clone, Copy, Debug)]
struct Restart {
    sequence: u64,
    version: (u16, u16),
    clean: bool,
    page_bytes: usize,
}

/// The reason to keep all when the journal is not closed.
pub(crate) fn check(volume: &Volume<'_>) -> Result<(), Stop> {
    let journal = volume.open_data(file::JOURNAL)?;
    if journal.data_bytes() < LENGTH_MIN || journal.initialized_bytes() != journal.data_bytes() {
        return Err(geometry("the journal is too short"));
    }
    if is_empty(volume, &journal)? {
        return Ok(());
    }
    let broken = || geometry("a restart page of the journal is damaged");
    let mut head = [0; 512];
    journal.read_at(&volume.device, &mut head, 0)?;
    let page_bytes = head.u32_at(16) as usize;
    if !page_bytes.is_power_of_two() || !(512..=PAGE_BYTES_MAX).contains(&page_bytes) {
        return Err(broken());
    }
    let mut pages = [None, None];
    for (page, place) in pages.iter_mut().zip([0, page_bytes as u64]) {
        let mut bytes = vec![0; page_bytes];
        journal.read_at(&volume.device, &mut bytes, place)?;
        *page = Restart::parse(&mut bytes, journal.data_bytes());
    }
    // Windows writes both when it closes the volume, so a torn one tells of another end.
    let [Some(first), Some(second)] = pages else { return Err(broken()) };
    if first.page_bytes != page_bytes || second.page_bytes != page_bytes {
        return Err(broken());
    }
    let newest = if second.sequence > first.sequence { second } else { first };
    match newest.version {
        (1, 1) => {}
        (2, 0) => {
            let message = "Windows has left its cache of metadata in the journal";
            return Err(Stop::Kept(Kept::whole(reason::KEPT_NEEDS_RECOVERY, message)));
        }
        (major, minor) => {
            let message = format!("version {major}.{minor} of the journal is not known");
            return Err(Stop::Kept(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message)));
        }
    }
    if !newest.clean || first.sequence == second.sequence && !(first.clean && second.clean) {
        let message = "the journal must be replayed first";
        return Err(Stop::Kept(Kept::whole(reason::KEPT_NEEDS_RECOVERY, message)));
    }
    Ok(())
}

/// A journal that was emptied after a clean end is all ones. Looked at wherever a restart page could begin.
fn is_empty(volume: &Volume<'_>, journal: &Stream) -> Result<bool, Stop> {
    let mut block = [0; 512];
    let mut place = 0;
    while place <= journal.data_bytes() - block.len() as u64 {
        journal.read_at(&volume.device, &mut block, place)?;
        if block.iter().any(|byte| *byte != 0xff) {
            return Ok(false);
        }
        place = (place * 2).max(block.len() as u64);
    }
    Ok(true)
}

impl Restart {
    fn parse(bytes: &mut [u8], journal_bytes: u64) -> Option<Self> {
        let signed = bytes.starts_with(b"RSTR") || bytes.starts_with(b"CHKD");
        if !signed || !fix_up(bytes) {
            return None;
        }
        let start = usize::from(bytes.u16_at(24));
        let sequence_end = usize::from(bytes.u16_at(4)) + 2 * usize::from(bytes.u16_at(6));
        let area = bytes.get(start..).filter(|area| area.len() >= 48 && start.is_multiple_of(8))?;
        let clients = area.u16_at(8);
        let listed = |first: u16| first == NO_CLIENT || first < clients;
        let length = usize::from(area.u16_at(20));
        let file_bytes = area.u64_at(24);
        let sane = start >= sequence_end
            && length <= area.len()
            && usize::from(area.u16_at(22)) + usize::from(clients) * 160 <= length
            && listed(area.u16_at(10))
            && listed(area.u16_at(12))
            && file_bytes <= journal_bytes
            && area.u32_at(16) == 67_u32.saturating_sub(u64::BITS - file_bytes.leading_zeros());
        sane.then(|| Self {
            // A page of chkdsk has its number outside the area.
            sequence: if bytes.starts_with(b"CHKD") { bytes.u64_at(8) } else { area.u64_at(0) },
            version: (bytes.u16_at(28), bytes.u16_at(26)),
            clean: area.u16_at(12) == NO_CLIENT || area.u16_at(14) & FLAG_CLEAN != 0,
            page_bytes: bytes.u32_at(16) as usize,
        })
    }
}
