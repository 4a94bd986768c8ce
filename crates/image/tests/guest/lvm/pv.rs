//! Physical volumes as the tools write them, made from their parts so that each part can be wrong.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const MIB: u64 = 1 << 20;
/// Of every volume group here.
pub(crate) const EXTENT_BYTES: u64 = MIB;
/// Where the extents start, and the first metadata area ends.
pub(crate) const DATA_START: u64 = MIB;
pub(crate) const FIRST_AREA: (u64, u64) = (4096, DATA_START - 4096);
const SECTOR: u64 = 512;

/// The checksum of LVM2, bit by bit.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = 0xf597_a6cf_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    crc
}

/// An identifier with dashes, from a short name.
pub(crate) fn id(name: &str) -> String {
    let long = format!("{name:0<32}");
    let mut parts = Vec::new();
    let mut rest = long.as_str();
    for length in [6, 4, 4, 4, 4, 4, 6] {
        let (part, tail) = rest.split_at(length);
        parts.push(part);
        rest = tail;
    }
    parts.join("-")
}

/// A segment over columns of physical volumes; the size of stripes is in sectors.
pub(crate) fn striped(start: u64, count: u64, columns: &[(&str, u64)], stripe_sectors: u64) -> String {
    let stripes: Vec<_> = columns.iter().map(|(name, extent)| format!("\"{name}\", {extent}")).collect();
    let size = if columns.len() > 1 { format!("stripe_size = {stripe_sectors}\n") } else { String::new() };
    let body = format!("stripe_count = {}\n{size}\nstripes = [\n{}\n]", columns.len(), stripes.join(",\n"));
    segment(start, count, "striped", &body)
}

/// A segment of any type.
pub(crate) fn segment(start: u64, count: u64, kind: &str, body: &str) -> String {
    format!("start_extent = {start}\nextent_count = {count}\ntype = \"{kind}\"\n{body}\n")
}

/// A logical volume.
pub(crate) fn volume(name: &str, status: &str, segments: &[String]) -> String {
    let mut text = format!(
        "{name} {{\nid = \"{}\"\nstatus = [{status}]\nflags = []\ncreation_time = 1700000000\ncreation_host = \"guest\"\n\
         segment_count = {}\n\n",
        id(name),
        segments.len()
    );
    for (number, segment) in segments.iter().enumerate() {
        text += &format!("segment{} {{\n{segment}}}\n", number + 1);
    }
    text + "}\n\n"
}

pub(crate) const SEEN: &str = "\"READ\", \"WRITE\", \"VISIBLE\"";
pub(crate) const HIDDEN: &str = "\"READ\", \"WRITE\"";

/// The description of a volume group `vg` with physical volumes of so many extents.
pub(crate) fn group(sequence: u64, physical: &[(&str, u64)], logical: &str) -> String {
    let mut text = format!(
        "vg {{\nid = \"{}\"\nseqno = {sequence}\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nflags = []\n\
         extent_size = {}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\nphysical_volumes {{\n\n",
        id("VG"),
        EXTENT_BYTES / SECTOR
    );
    for (name, extents) in physical {
        text += &format!(
            "{name} {{\nid = \"{}\"\ndevice = \"/dev/vda\"\n\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = {}\n\
             pe_start = {}\npe_count = {extents}\n}}\n\n",
            id(name),
            (DATA_START + extents * EXTENT_BYTES) / SECTOR,
            DATA_START / SECTOR
        );
    }
    text += "}\n\n";
    if !logical.is_empty() {
        text += &format!("logical_volumes {{\n\n{logical}}}\n\n");
    }
    text + "}\n# Generated for a test\n\ncontents = \"Text Format Volume Group\"\nversion = 1\n\n\
            description = \"Write from \\\"a test\\\" {\"\n\ncreation_host = \"guest\"\t# a comment\ncreation_time = 1700000000\n\n\0"
}

/// A physical volume on a file, somewhere in it.
pub(crate) struct Pv<'a> {
    pub(crate) file: &'a File,
    pub(crate) start: u64,
    pub(crate) name: &'a str,
    pub(crate) device_bytes: u64,
}

/// What a header says beside the place of the text.
#[derive(Clone, Copy, Default)]
pub(crate) struct Header {
    pub(crate) flags: u32,
    /// Offset and length of a text that is being written.
    pub(crate) pending: (u64, u64),
    /// Where in the area the text starts.
    pub(crate) text_offset: u64,
}

impl Pv<'_> {
    /// Label, one area, and the text in it.
    pub(crate) fn write(&self, text: &str) {
        self.write_label(1, &[FIRST_AREA], |_| {});
        self.write_area(FIRST_AREA, Header { text_offset: 512, ..Header::default() }, text);
    }

    /// The label in one of the first sectors; `change` sees the sector before its checksum is made.
    pub(crate) fn write_label(&self, sector: u64, areas: &[(u64, u64)], change: impl Fn(&mut [u8])) {
        let mut tail = Vec::new();
        tail.extend(32_u32.to_le_bytes());
        tail.extend(b"LVM2 001");
        tail.extend(id(self.name).replace('-', "").bytes());
        tail.extend(self.device_bytes.to_le_bytes());
        let areas: Vec<_> = areas.iter().flat_map(|(offset, length)| [*offset, *length]).collect();
        for number in [DATA_START, 0, 0, 0].into_iter().chain(areas).chain([0, 0]) {
            tail.extend(number.to_le_bytes());
        }
        tail.extend([2_u32, 1].iter().flat_map(|number| number.to_le_bytes()));
        tail.resize(512 - 20, 0);
        change(&mut tail);
        let mut label = b"LABELONE".to_vec();
        label.extend(sector.to_le_bytes());
        label.extend(checksum(&tail).to_le_bytes());
        label.extend(tail);
        self.put(sector * SECTOR, &label);
    }

    /// A metadata area with its text, which goes on at the start of the ring where it reaches the end.
    pub(crate) fn write_area(&self, (start, length): (u64, u64), header: Header, text: &str) {
        let mut bytes = b" LVM2 x[5A%r0N*>".to_vec();
        bytes.extend(1_u32.to_le_bytes());
        for number in [start, length, header.text_offset, text.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(checksum(text.as_bytes()).to_le_bytes());
        bytes.extend(header.flags.to_le_bytes());
        bytes.extend(header.pending.0.to_le_bytes());
        bytes.extend(header.pending.1.to_le_bytes());
        bytes.resize(508, 0);
        let mut sector = checksum(&bytes).to_le_bytes().to_vec();
        sector.extend(bytes);
        self.put(start, &sector);
        if header.text_offset > 0 {
            let room = (length - header.text_offset).min(text.len() as u64) as usize;
            let (head, tail) = text.as_bytes().split_at(room);
            self.put(start + header.text_offset, head);
            self.put(start + 512, tail);
        }
    }

    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.start + offset).unwrap();
    }
}

/// Bytes that look used and differ from place to place.
pub(crate) fn junk(file: &File, start: u64, length: u64) {
    let mut numbers = crate::proofs::Numbers(start + 1);
    let block: Vec<u8> = (0..8192).flat_map(|_| (numbers.below(1 << 32) as u32).to_le_bytes()).collect();
    for place in (start..start + length).step_by(block.len()) {
        let mut block = block.clone();
        block[..8].copy_from_slice(&place.to_le_bytes());
        let room = (start + length - place).min(block.len() as u64) as usize;
        file.write_all_at(&block[..room], place).unwrap();
    }
}

/// A file of junk.
pub(crate) fn create(path: &Path, length: u64) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    junk(&file, 0, length);
    file
}

/// A new physical volume over all of a file of junk, without anything that could be taken for a label.
pub(crate) fn whole_file<'a>(file: &'a File, name: &'a str, extents: u64) -> Pv<'a> {
    file.set_len(DATA_START + extents * EXTENT_BYTES).unwrap();
    file.write_all_at(&vec![0; DATA_START as usize], 0).unwrap();
    Pv { file, start: 0, name, device_bytes: DATA_START + extents * EXTENT_BYTES }
}
