//! The bytes of an image to be, made where they are needed: nothing of 512 MiB is kept in memory.

use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use imageops::v1::Digests;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

use crate::support::random::Random;

/// Bytes are made in units of this size. Some are zero: those become holes in the store.
const UNIT_BYTES: usize = 64 << 10;
/// Each unit with this remainder by 8 is zero; the first is not.
const ZERO_UNIT: u64 = 5;

/// The bytes that belong to one seed.
#[derive(Clone, Debug)]
pub struct Content {
    seed: u64,
    /// How many there are.
    pub size_bytes: u64,
    unit: Arc<[u8]>,
}

impl Content {
    /// The bytes of `seed`; another seed has others.
    pub fn new(seed: u64, size_bytes: u64) -> Self {
        Self { seed, size_bytes, unit: Random::from_seed(seed).bytes(UNIT_BYTES).into() }
    }

    /// Fills `target` with the bytes from `offset_bytes` on; they must exist.
    pub fn fill(&self, offset_bytes: u64, target: &mut [u8]) {
        let mut at = 0;
        while at < target.len() {
            let offset = offset_bytes + at as u64;
            let (unit, within) = (offset / UNIT_BYTES as u64, (offset % UNIT_BYTES as u64) as usize);
            let count = (target.len() - at).min(UNIT_BYTES - within);
            let piece = &mut target[at..at + count];
            if unit % 8 == ZERO_UNIT {
                piece.fill(0);
            } else {
                piece.copy_from_slice(&self.unit[within..within + count]);
                mark(piece, within, unit ^ self.seed);
            }
            at += count;
        }
    }

    /// The digests of all bytes.
    pub fn digests(&self) -> Digests {
        let (mut md5, mut sha256, mut crc32) = (md5::Md5::new(), Sha256::new(), crc32fast::Hasher::new());
        let mut block = vec![0; UNIT_BYTES];
        let mut offset = 0;
        while offset < self.size_bytes {
            let count = (self.size_bytes - offset).min(UNIT_BYTES as u64) as usize;
            self.fill(offset, &mut block[..count]);
            md5.update(&block[..count]);
            sha256.update(&block[..count]);
            crc32.update(&block[..count]);
            offset += count as u64;
        }
        Digests {
            md5: hex::encode(md5.finalize()),
            sha256: hex::encode(sha256.finalize()),
            crc32: Some(crc32.finalize()),
            ..Digests::default()
        }
    }

    /// The bytes of a part, as a vector.
    pub fn bytes(&self, offset_bytes: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(count).expect("a part that fits in memory")];
        self.fill(offset_bytes, &mut bytes);
        bytes
    }

    /// Reads from `offset_bytes` on; how far was read is kept in `sent_bytes`.
    pub fn reader(&self, offset_bytes: u64, sent_bytes: &Arc<AtomicU64>) -> Reader {
        Reader { content: self.clone(), at_bytes: offset_bytes, sent_bytes: Arc::clone(sent_bytes) }
    }

    /// A target of a download that takes these bytes and no others.
    pub fn comparer(&self) -> Comparer {
        Comparer { content: self.clone(), at_bytes: 0, expected: Vec::new() }
    }
}

/// Makes a unit different from all others: the first eight bytes of each sector tell which it is. `piece` begins `within`
/// the unit.
fn mark(piece: &mut [u8], within: usize, unit: u64) {
    const SECTOR_BYTES: usize = 512;
    let mut sector = within / SECTOR_BYTES;
    while sector * SECTOR_BYTES < within + piece.len() {
        let sum = unit.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(sector as u64);
        for (index, byte) in sum.to_le_bytes().into_iter().enumerate() {
            let at = (sector * SECTOR_BYTES + index).checked_sub(within);
            if let Some(place) = at.and_then(|at| piece.get_mut(at)) {
                *place = byte;
            }
        }
        sector += 1;
    }
}

/// Reads a [`Content`], also where a client wants a file.
pub struct Reader {
    content: Content,
    at_bytes: u64,
    sent_bytes: Arc<AtomicU64>,
}

impl Read for Reader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = target.len().min(usize::try_from(self.content.size_bytes - self.at_bytes).unwrap());
        self.content.fill(self.at_bytes, &mut target[..count]);
        self.at_bytes += count as u64;
        self.sent_bytes.fetch_max(self.at_bytes, Ordering::AcqRel);
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, distance) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(distance) => (self.at_bytes, distance),
            SeekFrom::End(distance) => (self.content.size_bytes, distance),
        };
        let at = base.checked_add_signed(distance).filter(|at| *at <= self.content.size_bytes);
        self.at_bytes = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at_bytes)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.read(target.initialize_unfilled())?;
        target.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Reader {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        self.seek(to).map(drop)
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.at_bytes))
    }
}

/// Takes bytes and fails at the first that is another.
pub struct Comparer {
    content: Content,
    at_bytes: u64,
    expected: Vec<u8>,
}

impl Comparer {
    /// Whether all bytes came.
    pub fn is_complete(&self) -> bool {
        self.at_bytes == self.content.size_bytes
    }
}

impl AsyncWrite for Comparer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if data.len() as u64 > this.content.size_bytes - this.at_bytes {
            return Poll::Ready(Err(io::Error::other("there are more bytes than were sent")));
        }
        this.expected.resize(data.len(), 0);
        this.content.fill(this.at_bytes, &mut this.expected);
        if this.expected != data {
            let text = format!("other bytes than were sent, from {} on", this.at_bytes);
            return Poll::Ready(Err(io::Error::other(text)));
        }
        this.at_bytes += data.len() as u64;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn content_is_the_same_however_it_is_read() {
    let content = Content::new(7, 5 * UNIT_BYTES as u64 + 1234);
    let whole = content.bytes(0, content.size_bytes);
    for (offset, count) in [(0, 1), (3, 1000), (511, 2), (UNIT_BYTES - 3, 600), (5 * UNIT_BYTES - 1, 1235)] {
        assert_eq!(content.bytes(offset as u64, count as u64), whole[offset..offset + count]);
    }
    assert_eq!(hex::encode(Sha256::digest(&whole)), content.digests().sha256);
    assert_ne!(Content::new(8, content.size_bytes).bytes(0, 4096), whole[..4096]);
    assert_ne!(whole[..512], whole[UNIT_BYTES..UNIT_BYTES + 512], "no two sectors are the same");
}
