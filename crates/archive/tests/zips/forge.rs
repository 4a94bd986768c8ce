//! Makes zips field by field, right ones and others.

use zlib_rs::{Deflate, DeflateFlush, Status};

/// One member. Fields that begin with `local_` are what the local header says, when it is not the same.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) crc32: u32,
    pub(crate) size: u64,
    pub(crate) compressed: u64,
    /// The packed bytes.
    pub(crate) bytes: Vec<u8>,
    /// External attributes.
    pub(crate) attributes: u32,
    pub(crate) volume: u16,
    pub(crate) extra: Vec<u8>,
    pub(crate) is_long: bool,
    pub(crate) local_name: Option<Vec<u8>>,
    pub(crate) local_method: Option<u16>,
    pub(crate) local_crc32: Option<u32>,
    pub(crate) local_size: Option<u64>,
    pub(crate) local_compressed: Option<u64>,
    pub(crate) descriptor: Option<Vec<u8>>,
    /// Where the directory says that it begins.
    pub(crate) offset: Option<u64>,
}

impl Part {
    pub(crate) fn stored(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            method: 0,
            flags: 1 << 11,
            crc32: zlib_rs::crc32::crc32(0, content),
            size: content.len() as u64,
            compressed: content.len() as u64,
            bytes: content.to_vec(),
            attributes: 0,
            volume: 0,
            extra: Vec::new(),
            is_long: false,
            local_name: None,
            local_method: None,
            local_crc32: None,
            local_size: None,
            local_compressed: None,
            descriptor: None,
            offset: None,
        }
    }

    pub(crate) fn deflated(name: &str, content: &[u8]) -> Self {
        let bytes = deflate(content);
        Self { method: 8, compressed: bytes.len() as u64, bytes, ..Self::stored(name, content) }
    }

    /// The same, whose checksum and sizes follow the content.
    pub(crate) fn with_descriptor(mut self) -> Self {
        let mut descriptor = b"PK\x07\x08".to_vec();
        descriptor.extend(self.crc32.to_le_bytes());
        descriptor.extend((self.compressed as u32).to_le_bytes());
        descriptor.extend((self.size as u32).to_le_bytes());
        self.descriptor = Some(descriptor);
        self.flags |= 1 << 3;
        (self.local_crc32, self.local_size, self.local_compressed) = (Some(0), Some(0), Some(0));
        self
    }

    /// The same in the zip64 form.
    pub(crate) fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.attributes = mode << 16;
        self
    }

    fn put_common(&self, header: &mut Vec<u8>, is_local: bool, offset: u64) {
        let pick =
            |local: Option<u64>, central: u64| if is_local { local.unwrap_or(central) } else { central };
        let size = pick(self.local_size, self.size);
        let compressed = pick(self.local_compressed, self.compressed);
        let mut extra = self.extra.clone();
        if self.is_long {
            let numbers = if is_local { vec![size, compressed] } else { vec![size, compressed, offset] };
            extra.extend(1_u16.to_le_bytes());
            extra.extend((numbers.len() as u16 * 8).to_le_bytes());
            numbers.iter().for_each(|number| extra.extend(number.to_le_bytes()));
        }
        let short = |number: u64| if self.is_long { u32::MAX } else { number as u32 };
        let name = if is_local { self.local_name.as_ref().unwrap_or(&self.name) } else { &self.name };
        let method = if is_local { self.local_method.unwrap_or(self.method) } else { self.method };
        let crc32 = if is_local { self.local_crc32.unwrap_or(self.crc32) } else { self.crc32 };
        header.extend(45_u16.to_le_bytes());
        header.extend(self.flags.to_le_bytes());
        header.extend(method.to_le_bytes());
        header.extend([0; 4]);
        header.extend(crc32.to_le_bytes());
        header.extend(short(compressed).to_le_bytes());
        header.extend(short(size).to_le_bytes());
        header.extend((name.len() as u16).to_le_bytes());
        header.extend((extra.len() as u16).to_le_bytes());
        if !is_local {
            header.extend([0; 2]);
            header.extend(self.volume.to_le_bytes());
            header.extend([0; 2]);
            header.extend(self.attributes.to_le_bytes());
            header.extend(short(offset).to_le_bytes());
        }
        header.extend(name);
        header.extend(extra);
    }

    /// What stands before the content.
    pub(crate) fn local_header(&self) -> Vec<u8> {
        let mut header = b"PK\x03\x04".to_vec();
        self.put_common(&mut header, true, 0);
        header
    }

    fn central_header(&self, offset: u64) -> Vec<u8> {
        let mut header = b"PK\x01\x02".to_vec();
        header.extend((3_u16 << 8 | 45).to_le_bytes());
        self.put_common(&mut header, false, self.offset.unwrap_or(offset));
        header
    }
}

/// A zip of these members, in this order.
pub(crate) fn zip(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for part in parts {
        directory.extend(part.central_header(bytes.len() as u64));
        bytes.extend(part.local_header());
        bytes.extend(&part.bytes);
        bytes.extend(part.descriptor.iter().flatten());
    }
    end(bytes, &directory, parts.len(), parts.iter().any(|part| part.is_long))
}

/// Puts a directory and the records of the end behind what is there.
pub(crate) fn end(mut bytes: Vec<u8>, directory: &[u8], count: usize, is_long: bool) -> Vec<u8> {
    let offset = bytes.len() as u64;
    bytes.extend(directory);
    if is_long {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for number in [count as u64, count as u64, directory.len() as u64, offset] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(record.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    let short = |number: u64| if is_long { u32::MAX } else { number as u32 };
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    let count = if is_long { u16::MAX } else { count as u16 };
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(short(directory.len() as u64).to_le_bytes());
    bytes.extend(short(offset).to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// The directory entry of a part that begins at `offset`.
pub(crate) fn central(part: &Part, offset: u64) -> Vec<u8> {
    part.central_header(offset)
}

/// A whole raw deflate stream.
pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut output = vec![0; content.len() + content.len() / 8 + 64];
    let mut coder = Deflate::new(6, false, 15);
    let status = coder.compress(content, &mut output, DeflateFlush::Finish).unwrap();
    assert_eq!(status, Status::StreamEnd);
    output.truncate(coder.total_out() as usize);
    output
}

/// A piece of a deflate stream that may be repeated: it refers to nothing before it, and another piece may follow.
pub(crate) fn deflate_piece(content: &[u8]) -> Vec<u8> {
    let mut output = vec![0; content.len() + content.len() / 8 + 64];
    let mut coder = Deflate::new(9, false, 15);
    coder.compress(content, &mut output, DeflateFlush::FullFlush).unwrap();
    assert_eq!(coder.total_in(), content.len() as u64);
    output.truncate(coder.total_out() as usize);
    output
}

/// What ends a stream of pieces.
pub(crate) const STREAM_END: [u8; 2] = [3, 0];
