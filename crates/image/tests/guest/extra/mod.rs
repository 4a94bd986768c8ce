//! What is dropped beside free space when it is asked for: clean journals, unused inode tables, gaps.

mod damage;
mod gaps;
mod made;
mod proofs;
mod rules;

use std::ops::Range;

use imageops_image::Control;
use imageops_image::disk::Disk;
use imageops_image::guest::{self, ExtraGains, Layout};

/// Both gains of a file system.
const BOTH: ExtraGains = ExtraGains { journals: true, inode_tables: true, gaps: false };
const JOURNALS: ExtraGains = ExtraGains { journals: true, inode_tables: false, gaps: false };
const TABLES: ExtraGains = ExtraGains { journals: false, inode_tables: true, gaps: false };

fn scan_with(disk: &dyn Disk, extra: ExtraGains) -> Layout {
    guest::scan_with(disk, extra, &Control::default()).unwrap()
}

/// What of the first part goes beside free space.
fn extra_ranges(layout: &Layout) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    layout.parts()[0].extra_within(0..u64::MAX, &mut found);
    let bytes: u64 = found.iter().map(|range| range.end - range.start).sum();
    assert_eq!(bytes, layout.parts()[0].summary().extra.as_ref().map_or(0, |extra| extra.bytes));
    found
}

/// Why gains were refused in the first part.
fn refusals(layout: &Layout) -> Vec<String> {
    let extra = layout.parts()[0].summary().extra.as_ref();
    extra.map_or_else(Vec::new, |extra| extra.kept.iter().map(|kept| kept.reason.clone()).collect())
}
