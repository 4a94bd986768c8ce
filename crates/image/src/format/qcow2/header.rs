//! The header and its extensions.

use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::{BITMAP_DIRECTORY_BYTES_MAX, BITMAPS_MAX, L1_BYTES_MAX, REFCOUNT_TABLE_BYTES_MAX};
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Magic at the start of every qcow image.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a version 2 header.
const VERSION_2_BYTES: u32 = 72;
/// Least bytes of a version 3 header.
const VERSION_3_BYTES: u32 = 104;
/// Bytes of the header that have a meaning today.
const KNOWN_BYTES: usize = 112;
/// Compatible feature bit: refcounts may lag while the image is dirty.
pub(crate) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;
/// Most bytes of header extensions that are looked at.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// Most extensions of unknown types that are remembered.
const UNKNOWN_EXTENSIONS_MAX: usize = 64;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_ENCRYPTION_HEADER: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// How compressed clusters are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Raw deflate streams.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// How the guest's data are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// AES-CBC, the legacy method.
    Aes,
    /// LUKS.
    Luks,
}

/// Incompatible feature bits: who does not know one cannot read the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incompatible(pub u64);

impl Incompatible {
    /// Refcounts may be wrong: the image was not closed.
    pub const DIRTY: u64 = 1;
    /// Tables are known to be damaged.
    pub const CORRUPT: u64 = 1 << 1;
    /// The guest's data lie in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// Compressed clusters are coded otherwise than with deflate.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All bits the engine knows.
    pub const KNOWN: u64 =
        Self::DIRTY | Self::CORRUPT | Self::DATA_FILE | Self::COMPRESSION | Self::EXTENDED_L2;

    /// Whether any of `bits` is set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// Autoclear feature bits: a writer that does not know one clears it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Autoclear(pub u64);

impl Autoclear {
    /// The bitmaps are up to date.
    pub const BITMAPS: u64 = 1;
    /// The external data file is a raw disk.
    pub const RAW_EXTERNAL: u64 = 1 << 1;
    /// All bits the engine knows.
    pub const KNOWN: u64 = Self::BITMAPS | Self::RAW_EXTERNAL;

    /// Whether any of `bits` is set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// A range of the image file that the header names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Region {
    /// Byte offset.
    pub offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
}

/// What the header extensions hold. Names of other files are not kept, only that they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extensions {
    /// Offset of the extension that names the backing file's format.
    pub backing_format_at: Option<u64>,
    /// Offset of the extension that names an external data file.
    pub data_file_at: Option<u64>,
    /// Where the LUKS header lies.
    pub encryption_header: Option<Region>,
    /// Number of bitmaps and their directory, when they are in force.
    pub bitmaps: Option<(u32, Region)>,
    /// Types that the engine does not know, the first ones.
    pub unknown: Vec<u32>,
}

/// The header of a qcow2 image, checked: every number in it may be calculated with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Offset of the backing file's name; 0 for none.
    pub backing_name_offset: u64,
    /// Length of the backing file's name in bytes.
    pub backing_name_bytes: u32,
    /// Clusters have 1 << this bytes; 9 to 21.
    pub cluster_bits: u32,
    /// Size of the guest's disk as the header gives it; see [`Header::virtual_size_bytes`].
    pub size_bytes: u64,
    /// How data are encrypted.
    pub encryption: Option<Encryption>,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Offset of the active L1 table.
    pub l1_offset: u64,
    /// Offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// Number of internal snapshots.
    pub snapshot_count: u32,
    /// Offset of the snapshot table.
    pub snapshot_table_offset: u64,
    /// Features that must be known.
    pub incompatible: Incompatible,
    /// Features that may be ignored.
    pub compatible: u64,
    /// Features that writers must know or clear.
    pub autoclear: Autoclear,
    /// Refcounts have 1 << this bits; 0 to 6.
    pub refcount_order: u32,
    /// Bytes of the header before the extensions.
    pub header_bytes: u32,
    /// How compressed clusters are coded.
    pub compression: Compression,
    /// The extensions.
    pub extensions: Extensions,
}

/// Names of the header's fields by their offset, for messages.
const FIELDS: [(u64, &str); 20] = [
    (0, "magic"),
    (4, "version"),
    (8, "backing_file_offset"),
    (16, "backing_file_size"),
    (20, "cluster_bits"),
    (24, "size"),
    (32, "crypt_method"),
    (36, "l1_size"),
    (40, "l1_table_offset"),
    (48, "refcount_table_offset"),
    (56, "refcount_table_clusters"),
    (60, "nb_snapshots"),
    (64, "snapshots_offset"),
    (72, "incompatible_features"),
    (80, "compatible_features"),
    (88, "autoclear_features"),
    (96, "refcount_order"),
    (100, "header_length"),
    (104, "compression_type"),
    (105, "padding"),
];

/// The name, in the words of the specification, of the header field that starts at `offset`.
pub(crate) fn field_at(offset: u64) -> Option<&'static str> {
    FIELDS.iter().find(|(at, _)| *at == offset).map(|(_, name)| *name)
}

impl Header {
    /// Reads and checks the header and its extensions.
    ///
    /// What passes here is what a checker may walk: names of other files, encryption and the dirty and corrupt marks
    /// are no error yet. Tables are not read, and may lie past the end of the file.
    pub fn parse(storage: &dyn Storage) -> Result<Self> {
        if storage.size_bytes() < u64::from(VERSION_2_BYTES) {
            return Err(invalid(reason::INVALID_TRUNCATED, "the file is shorter than a header", 0));
        }
        let mut bytes = [0u8; KNOWN_BYTES];
        read_zero_filled(storage, &mut bytes, 0)?;
        let mut header = Self::parse_fixed(&bytes)?;
        if u64::from(header.header_bytes) > storage.size_bytes() {
            return Err(invalid(reason::INVALID_TRUNCATED, "the file ends inside its header", 100));
        }
        header.check_tables()?;
        header.check_backing_name()?;
        header.extensions = parse_extensions(storage, &header)?;
        if header.encryption == Some(Encryption::Luks) && header.extensions.encryption_header.is_none() {
            let message = "the image is encrypted with LUKS but does not say where the LUKS header lies";
            return Err(invalid(reason::INVALID_EXTENSION, message, 32));
        }
        if !header.has_data_file() && header.autoclear.has(Autoclear::RAW_EXTERNAL) {
            let message = "the image claims a raw external data file but has no external data file";
            return Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_DATA_FILE, message).at(88));
        }
        Ok(header)
    }

    /// The fields of the first bytes, each checked by itself.
    fn parse_fixed(bytes: &[u8; KNOWN_BYTES]) -> Result<Self> {
        if bytes[..4] != MAGIC {
            return Err(invalid(reason::INVALID_MAGIC, "the magic of qcow2 is missing", 0));
        }
        let version = u32_at(bytes, 4);
        if version != 2 && version != 3 {
            return Err(invalid(reason::INVALID_VERSION, format!("version {version} is neither 2 nor 3"), 4));
        }
        let cluster_bits = u32_at(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            let message = format!("clusters of 2^{cluster_bits} bytes are outside 2^9 to 2^21");
            return Err(invalid(reason::INVALID_CLUSTER_BITS, message, 20));
        }
        let is_3 = version == 3;
        let header_bytes = if is_3 { u32_at(bytes, 100) } else { VERSION_2_BYTES };
        if is_3 && (header_bytes < VERSION_3_BYTES || header_bytes > 1 << cluster_bits) {
            let message =
                format!("a header of {header_bytes} bytes is shorter than 104 or longer than a cluster");
            return Err(invalid(reason::INVALID_HEADER_LENGTH, message, 100));
        }
        let incompatible = Incompatible(if is_3 { u64_at(bytes, 72) } else { 0 });
        let compression =
            parse_compression(if is_3 && header_bytes > 104 { bytes[104] } else { 0 }, incompatible)?;
        if incompatible.has(!Incompatible::KNOWN) {
            let unknown = incompatible.0 & !Incompatible::KNOWN;
            let message = format!("incompatible features {unknown:#x} are not known");
            return Err(invalid(reason::INVALID_INCOMPATIBLE_FEATURE, message, 72));
        }
        if incompatible.has(Incompatible::EXTENDED_L2) && cluster_bits < 14 {
            let message = "subclusters need clusters of 16 KiB or more";
            return Err(invalid(reason::INVALID_CLUSTER_BITS, message, 20));
        }
        let refcount_order = if is_3 { u32_at(bytes, 96) } else { 4 };
        if refcount_order > 6 {
            let message = format!("refcounts of 2^{refcount_order} bits are wider than 64 bits");
            return Err(invalid(reason::INVALID_REFCOUNT_ORDER, message, 96));
        }
        Ok(Self {
            version,
            backing_name_offset: u64_at(bytes, 8),
            backing_name_bytes: u32_at(bytes, 16),
            cluster_bits,
            size_bytes: u64_at(bytes, 24),
            encryption: parse_encryption(u32_at(bytes, 32))?,
            l1_entries: u32_at(bytes, 36),
            l1_offset: u64_at(bytes, 40),
            refcount_table_offset: u64_at(bytes, 48),
            refcount_table_clusters: u32_at(bytes, 56),
            snapshot_count: u32_at(bytes, 60),
            snapshot_table_offset: u64_at(bytes, 64),
            incompatible,
            compatible: if is_3 { u64_at(bytes, 80) } else { 0 },
            autoclear: Autoclear(if is_3 { u64_at(bytes, 88) } else { 0 }),
            refcount_order,
            header_bytes,
            compression,
            extensions: Extensions::default(),
        })
    }

    /// Sizes and places of the tables.
    fn check_tables(&self) -> Result<()> {
        if self.size_bytes > i64::MAX as u64 {
            let message = "a disk of more than 2^63 bytes cannot be addressed";
            return Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_VIRTUAL_SIZE, message).at(24));
        }
        let refcount_bytes = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if refcount_bytes > REFCOUNT_TABLE_BYTES_MAX {
            return Err(limit("the refcount table is larger than 8 MiB", 56));
        }
        self.check_place(self.refcount_table_offset, refcount_bytes, "refcount table", 48)?;
        if self.l1_bytes() > L1_BYTES_MAX {
            return Err(limit("the L1 table is larger than 32 MiB", 36));
        }
        self.check_place(self.l1_offset, self.l1_bytes(), "L1 table", 40)?;
        if u64::from(self.l1_entries) < self.size_bytes.div_ceil(self.l2_guest_bytes()) {
            let message = "the L1 table is too small for the size of the disk";
            return Err(invalid(reason::INVALID_L1_SIZE, message, 36));
        }
        Ok(())
    }

    /// A table must start at a cluster and end within the offsets of a file.
    fn check_place(&self, offset: u64, length_bytes: u64, what: &str, field: u64) -> Result<()> {
        if !self.is_cluster_aligned(offset) || offset > i64::MAX as u64 - length_bytes {
            let message = format!("the {what} does not start at a cluster of the file");
            return Err(invalid(reason::INVALID_TABLE_OFFSET, message, field));
        }
        Ok(())
    }

    fn check_backing_name(&self) -> Result<()> {
        if self.backing_name_offset == 0 {
            return Ok(());
        }
        let room = self.cluster_bytes().checked_sub(self.backing_name_offset);
        if room.is_none_or(|room| u64::from(self.backing_name_bytes) > room.min(1023)) {
            // The name alone makes the image unsafe; a name outside the header is no milder.
            let message =
                "the image names a backing file, by a name longer than 1023 bytes or outside its header";
            return Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_BACKING_FILE, message).at(8));
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Size of the disk that the guest sees: whole sectors.
    pub fn virtual_size_bytes(&self) -> u64 {
        self.size_bytes & !511
    }

    /// Whether L2 entries have subclusters.
    pub fn has_subclusters(&self) -> bool {
        self.incompatible.has(Incompatible::EXTENDED_L2)
    }

    /// Whether the feature bit of an external data file is set.
    pub fn has_data_file(&self) -> bool {
        self.incompatible.has(Incompatible::DATA_FILE)
    }

    /// Bytes of an L2 entry.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.has_subclusters() { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / self.l2_entry_bytes()
    }

    /// Guest bytes that one L2 table maps.
    pub fn l2_guest_bytes(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Bytes of the active L1 table.
    pub fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_entries) * 8
    }

    /// Bytes of the refcount table.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.cluster_bits
    }

    /// Host clusters that one refcount block counts.
    pub fn refcount_block_entries(&self) -> u64 {
        (self.cluster_bytes() * 8) >> self.refcount_order
    }

    /// Whether `offset` is a multiple of the cluster size.
    pub fn is_cluster_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster_bytes() - 1) == 0
    }
}

fn parse_encryption(method: u32) -> Result<Option<Encryption>> {
    match method {
        0 => Ok(None),
        1 => Ok(Some(Encryption::Aes)),
        2 => Ok(Some(Encryption::Luks)),
        other => {
            Err(invalid(reason::INVALID_ENCRYPTION, format!("encryption method {other} is not known"), 32))
        }
    }
}

/// The coder, which must agree with its feature bit.
fn parse_compression(kind: u8, incompatible: Incompatible) -> Result<Compression> {
    let compression = match kind {
        0 => Compression::Zlib,
        1 => Compression::Zstd,
        other => {
            let message = format!("compression type {other} is not known");
            return Err(invalid(reason::INVALID_COMPRESSION, message, 104));
        }
    };
    if incompatible.has(Incompatible::COMPRESSION) != (compression != Compression::Zlib) {
        let message = "the compression type and its feature bit contradict each other";
        return Err(invalid(reason::INVALID_COMPRESSION, message, 104));
    }
    Ok(compression)
}

/// Walks the extensions up to their end mark, the backing file's name or the end of the first cluster.
fn parse_extensions(storage: &dyn Storage, header: &Header) -> Result<Extensions> {
    let end =
        if header.backing_name_offset == 0 { header.cluster_bytes() } else { header.backing_name_offset };
    let mut extensions = Extensions::default();
    let mut offset = u64::from(header.header_bytes);
    while offset < end {
        if offset - u64::from(header.header_bytes) > EXTENSION_BYTES_MAX {
            return Err(limit("the header extensions are larger than 64 KiB", offset));
        }
        let mut head = [0u8; 8];
        read_zero_filled(storage, &mut head, offset)?;
        let (kind, length) = (u32_at(&head, 0), u64::from(u32_at(&head, 4)));
        let body = offset + 8;
        if body > end || length > end - body {
            let message = "a header extension reaches past the header";
            return Err(invalid(reason::INVALID_EXTENSION, message, offset));
        }
        if kind == EXTENSION_END {
            break;
        }
        extensions.take(storage, header, kind, Region { offset: body, length_bytes: length })?;
        offset = body + length.next_multiple_of(8);
    }
    Ok(extensions)
}

impl Extensions {
    fn take(&mut self, storage: &dyn Storage, header: &Header, kind: u32, body: Region) -> Result<()> {
        let at = body.offset - 8;
        match kind {
            EXTENSION_BACKING_FORMAT if body.length_bytes >= 16 => {
                let message = "the name of the backing file's format is too long";
                return Err(invalid(reason::INVALID_EXTENSION, message, at));
            }
            EXTENSION_BACKING_FORMAT => self.backing_format_at = Some(at),
            EXTENSION_FEATURE_NAMES => {}
            EXTENSION_DATA_FILE => self.data_file_at = Some(at),
            EXTENSION_ENCRYPTION_HEADER => {
                self.encryption_header = Some(encryption_header(storage, header, body)?)
            }
            EXTENSION_BITMAPS => self.bitmaps = bitmaps(storage, header, body)?,
            other if self.unknown.len() < UNKNOWN_EXTENSIONS_MAX => self.unknown.push(other),
            _ => {}
        }
        Ok(())
    }
}

fn encryption_header(storage: &dyn Storage, header: &Header, body: Region) -> Result<Region> {
    let at = body.offset - 8;
    if header.encryption != Some(Encryption::Luks) || body.length_bytes != 16 {
        let message = "the pointer to a LUKS header is malformed, or the image is not encrypted with LUKS";
        return Err(invalid(reason::INVALID_EXTENSION, message, at));
    }
    let mut bytes = [0u8; 16];
    read_zero_filled(storage, &mut bytes, body.offset)?;
    let region = Region { offset: u64_at(&bytes, 0), length_bytes: u64_at(&bytes, 8) };
    let in_range = region.offset.checked_add(region.length_bytes).is_some_and(|end| end <= i64::MAX as u64);
    if !header.is_cluster_aligned(region.offset) || !in_range {
        let message = "the LUKS header does not start at a cluster of the file";
        return Err(invalid(reason::INVALID_EXTENSION, message, at));
    }
    Ok(region)
}

/// The directory of the bitmaps; `None` when the autoclear bit says that they are out of date.
fn bitmaps(storage: &dyn Storage, header: &Header, body: Region) -> Result<Option<(u32, Region)>> {
    let malformed = |message: &str| invalid(reason::INVALID_EXTENSION, message, body.offset - 8);
    if body.length_bytes != 24 {
        return Err(malformed("the bitmaps extension is not 24 bytes long"));
    }
    if !header.autoclear.has(Autoclear::BITMAPS) {
        return Ok(None);
    }
    let mut bytes = [0u8; 24];
    read_zero_filled(storage, &mut bytes, body.offset)?;
    let count = u32_at(&bytes, 0);
    let directory = Region { length_bytes: u64_at(&bytes, 8), offset: u64_at(&bytes, 16) };
    if u32_at(&bytes, 4) != 0 || count == 0 {
        return Err(malformed("the bitmaps extension has no bitmaps or a reserved field that is not zero"));
    }
    if count > BITMAPS_MAX || directory.length_bytes > BITMAP_DIRECTORY_BYTES_MAX {
        return Err(limit(
            "the bitmaps are more than 65535, or their directory is too large",
            body.offset - 8,
        ));
    }
    let in_range = directory.offset <= i64::MAX as u64 - directory.length_bytes;
    if !header.is_cluster_aligned(directory.offset) || !in_range {
        return Err(malformed("the directory of the bitmaps does not start at a cluster of the file"));
    }
    Ok(Some((count, directory)))
}

fn invalid(reason: &'static str, message: impl Into<String>, offset: u64) -> Error {
    Error::new(ErrorKind::Invalid, reason, message).at(offset)
}

fn limit(message: &str, offset: u64) -> Error {
    Error::new(ErrorKind::Unsafe, reason::UNSAFE_LIMIT, message).at(offset)
}

/// The number at `at`, which the caller knows to lie inside `bytes`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The number at `at`, which the caller knows to lie inside `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

/// The number at `at`, which the caller knows to lie inside `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
