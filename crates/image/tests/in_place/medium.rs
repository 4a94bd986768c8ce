//! A medium in memory that writes down what was done to it, and may stop.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use imageops_image::in_place::Medium;
use imageops_image::storage::Storage;

use crate::proofs::Numbers;

/// What was asked of a medium.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Write { offset: u64, bytes: Vec<u8> },
    Punch(Range<u64>),
    Flush,
}

impl Operation {
    pub(crate) fn apply(&self, image: &mut [u8]) {
        match self {
            Self::Write { offset, bytes } => {
                let start = *offset as usize;
                image[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Self::Punch(range) => {
                let end = (range.end as usize).min(image.len());
                image[(range.start as usize).min(end)..end].fill(0);
            }
            Self::Flush => {}
        }
    }

    pub(crate) fn hole(&self) -> Option<Range<u64>> {
        match self {
            Self::Punch(range) => Some(range.clone()),
            _ => None,
        }
    }

    /// The pieces that reach the medium each by itself.
    fn pieces(&self) -> Vec<Self> {
        match self {
            Self::Write { offset, bytes } => bytes
                .chunks(512)
                .zip((*offset..).step_by(512))
                .map(|(chunk, offset)| Self::Write { offset, bytes: chunk.to_vec() })
                .collect(),
            other => vec![other.clone()],
        }
    }
}

/// `image` with any of the `operations`, some of them in part. Pieces that lie on each other keep their order.
pub(crate) fn applied(image: &[u8], operations: &[Operation], numbers: &mut Numbers) -> Vec<u8> {
    let mut state = image.to_vec();
    for operation in operations {
        match numbers.below(3) {
            0 => {}
            1 => operation.apply(&mut state),
            _ => {
                for piece in operation.pieces() {
                    if numbers.below(2) == 0 {
                        piece.apply(&mut state);
                    }
                }
            }
        }
    }
    state
}

/// A medium in memory that fails for good after so many operations.
pub(crate) struct Recorder {
    image: Mutex<Vec<u8>>,
    log: Mutex<Vec<Operation>>,
    stop: usize,
}

impl Recorder {
    pub(crate) fn new(image: Vec<u8>, stop: usize) -> Self {
        Self { image: Mutex::new(image), log: Mutex::default(), stop }
    }

    pub(crate) fn log(&self) -> Vec<Operation> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.image.lock().unwrap().clone()
    }

    fn take(&self, operation: Operation) -> io::Result<()> {
        let mut log = self.log.lock().unwrap();
        if log.len() == self.stop {
            return Err(io::Error::other("the medium has failed"));
        }
        operation.apply(&mut self.image.lock().unwrap());
        log.push(operation);
        Ok(())
    }
}

impl Storage for Recorder {
    fn size_bytes(&self) -> u64 {
        self.image.lock().unwrap().len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.image.lock().unwrap().read_at(buffer, offset)
    }
}

impl Medium for Recorder {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.take(Operation::Write { offset, bytes: bytes.to_vec() })
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.take(Operation::Punch(range))
    }

    fn flush(&self) -> io::Result<()> {
        self.take(Operation::Flush)
    }
}
