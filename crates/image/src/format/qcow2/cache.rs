//! A bounded cache of table pieces, shared by the readers of one image.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::storage::{Storage, read_zero_filled};

/// Bytes of a piece: maps 32 MiB of the guest at the usual cluster size.
pub(crate) const PIECE_BYTES: u64 = 4096;
/// Independently locked parts. Neighbouring pieces lie in different ones.
const SHARDS: u64 = 64;
/// Pieces that a shard holds: 8 MiB in all.
const PIECES_PER_SHARD: usize = 32;

/// Words of a table piece, decoded.
pub(crate) type Piece = Arc<[u64]>;

/// Pieces by their offset, least recently used last.
type Shard = Mutex<Vec<(u64, Piece)>>;

/// A piece is looked up under the lock of its shard for some nanoseconds; reading happens outside of any lock, so two
/// threads that miss at once both read.
pub(crate) struct TableCache {
    shards: Vec<Shard>,
    piece_bytes: u64,
}

impl TableCache {
    /// A cache for tables whose offsets are multiples of `cluster_bytes`.
    pub(crate) fn new(cluster_bytes: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            piece_bytes: PIECE_BYTES.min(cluster_bytes),
        }
    }

    /// Bytes of every piece.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// The piece that starts at `offset`, a multiple of the piece's size.
    pub(crate) fn read(&self, storage: &dyn Storage, offset: u64) -> Result<Piece> {
        let shard = &self.shards[(offset / self.piece_bytes % SHARDS) as usize];
        {
            let mut pieces = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = pieces.iter().position(|(at, _)| *at == offset) {
                pieces[..=index].rotate_right(1);
                return Ok(Arc::clone(&pieces[0].1));
            }
        }
        let mut bytes = [0u8; PIECE_BYTES as usize];
        let bytes = &mut bytes[..self.piece_bytes as usize];
        read_zero_filled(storage, bytes, offset)?;
        let (words, _) = bytes.as_chunks::<8>();
        let piece: Piece = words.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let mut pieces = shard.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.truncate(PIECES_PER_SHARD - 1);
        pieces.insert(0, (offset, Arc::clone(&piece)));
        Ok(piece)
    }
}
