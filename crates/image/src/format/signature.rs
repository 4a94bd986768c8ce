//! What a file looks like: every signature that it carries.

use crate::error::Result;
use crate::format::Format;
use crate::storage::{Storage, read_zero_filled};

/// A signature found in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The format that the signature belongs to.
    pub format: Format,
    /// Where it lies.
    pub offset: u64,
    /// What kind of mark it is.
    pub kind: FoundKind,
}

/// Marks that need to be told apart within one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundKind {
    /// The binary magic of the format.
    Magic,
    /// A text that describes an image made of other files.
    Descriptor,
    /// A footer at the end of the file.
    Footer,
}

/// Bytes at the start of a file in which all signatures but footers lie.
pub const HEAD_BYTES: usize = 40 << 10;

const VDI_MAGIC: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];
const ISO_DESCRIPTORS: usize = 32 << 10;
const ISO_SECTOR: usize = 2048;
const VMDK_DESCRIPTOR: &[u8] = b"# disk descriptorfile";

/// Runs every detector to its end. The result is in the order of [`Format::ALL`], best first; empty for a raw disk.
pub fn find(storage: &dyn Storage) -> Result<Vec<Found>> {
    let size = storage.size_bytes();
    let mut head = vec![0u8; HEAD_BYTES.min(usize::try_from(size).unwrap_or(HEAD_BYTES))];
    read_zero_filled(storage, &mut head, 0)?;
    let mut tail = [0u8; 512];
    let tail_at = size.saturating_sub(512);
    let tail = &mut tail[..(size - tail_at) as usize];
    read_zero_filled(storage, tail, tail_at)?;
    let mut found = find_in_head(&head);
    if tail_at > 0 {
        found.extend(find_in_tail(tail, tail_at));
    }
    found.sort_by_key(|found| Format::ALL.iter().position(|format| *format == found.format));
    Ok(found)
}

/// The signatures in the first bytes of a file; pass [`HEAD_BYTES`] or more, or all there is.
pub(crate) fn find_in_head(head: &[u8]) -> Vec<Found> {
    let starts = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let mut found = Vec::new();
    let mut add = |format, offset: usize, kind| found.push(Found { format, offset: offset as u64, kind });
    if starts(0, b"QFI\xfb") {
        add(if starts(4, &[0, 0, 0, 1]) { Format::Qcow1 } else { Format::Qcow2 }, 0, FoundKind::Magic);
    }
    if starts(0, b"KDMV") || starts(0, b"COWD") {
        add(Format::Vmdk, 0, FoundKind::Magic);
    }
    if let Some(at) = find_descriptor(head) {
        add(Format::Vmdk, at, FoundKind::Descriptor);
    }
    let magics: [(Format, usize, &[u8]); 10] = [
        (Format::Vhdx, 0, b"vhdxfile"),
        (Format::Vhd, 0, b"conectix"),
        (Format::Vdi, 64, &VDI_MAGIC),
        (Format::Qed, 0, b"QED\0"),
        (Format::Parallels, 0, b"WithoutFreeSpace"),
        (Format::Parallels, 0, b"WithouFreSpacExt"),
        (Format::Cloop, 0, b"#!/bin/sh\n#V2.0 Format\n"),
        (Format::Bochs, 0, b"Bochs Virtual HD Image\0"),
        (Format::Dmg, 0, b"koly"),
        (Format::Luks, 0, b"LUKS\xba\xbe"),
    ];
    for (format, offset, magic) in magics {
        if starts(offset, magic) {
            add(format, offset, FoundKind::Magic);
        }
    }
    // Volume descriptors follow each other from the 16th sector on; the first usually is the primary one.
    if let Some(at) = (ISO_DESCRIPTORS..HEAD_BYTES).step_by(ISO_SECTOR).find(|at| starts(at + 1, b"CD001")) {
        add(Format::Iso, at + 1, FoundKind::Magic);
    }
    found
}

fn find_in_tail(tail: &[u8], offset: u64) -> Option<Found> {
    let format = if tail.starts_with(b"conectix") {
        Format::Vhd
    } else if tail.starts_with(b"koly") {
        Format::Dmg
    } else {
        // A fixed image made by an old program has a footer of 511 bytes.
        return tail.get(1..).filter(|rest| rest.starts_with(b"conectix")).map(|_| Found {
            format: Format::Vhd,
            offset: offset + 1,
            kind: FoundKind::Footer,
        });
    };
    Some(Found { format, offset, kind: FoundKind::Footer })
}

/// A VMDK description starts with its title, after any number of comments and empty lines and whatever the case.
fn find_descriptor(head: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(line) = head.get(at..) {
        let blank = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        at += blank;
        let line = &line[blank..];
        if line.len() >= VMDK_DESCRIPTOR.len()
            && line[..VMDK_DESCRIPTOR.len()].eq_ignore_ascii_case(VMDK_DESCRIPTOR)
        {
            return Some(at);
        }
        if line.first().is_some_and(|byte| *byte != b'#') && !is_version_line(line) || line.is_empty() {
            return None;
        }
        at += line.iter().position(|byte| *byte == b'\n')? + 1;
    }
    None
}

/// Some readers take a description that starts with its version, too.
fn is_version_line(line: &[u8]) -> bool {
    line.len() >= 8 && line[..8].eq_ignore_ascii_case(b"version=")
}
