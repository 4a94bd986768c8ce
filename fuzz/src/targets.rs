//! What is done with an image, and what must be true afterwards, whatever the image.

mod compress;
mod guest;
mod packed;
mod qcow2;
mod zip;

use std::sync::Arc;

use imageops_image::disk::Disk;
use imageops_image::format::Raw;
use imageops_image::storage::Storage;

pub use self::compress::compress;
pub use self::guest::guest;
pub use self::packed::packed;
pub use self::qcow2::{inspect, qcow2_check, qcow2_read};
pub use self::zip::zip;
use crate::memory::peak_of;
use crate::seal::seal;
use crate::sparse::Sparse;

/// A target by its name: one for each format, one for each parser of what is in a guest, and two for archives.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. Those of guests differ in their seeds alone.
pub const TARGETS: [Target; 15] = [
    ("qcow2_read", qcow2_read),
    ("qcow2_check", qcow2_check),
    ("inspect", inspect),
    ("tables", guest),
    ("ext", guest),
    ("fat", guest),
    ("exfat", guest),
    ("ntfs", guest),
    ("xfs", guest),
    ("btrfs", guest),
    ("lvm", guest),
    ("swap", guest),
    ("compress", compress),
    ("zip", zip),
    ("packed", packed),
];

/// Runs the target of a name.
///
/// # Panics
///
/// When there is none, and when the target finds a fault.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(other, _)| *other == name);
    target.expect("each program has a target of its name").1(input);
}

/// What the engine may take for one image.
struct Limits {
    memory_bytes: usize,
    reads: u64,
    bytes_read: u64,
}

/// An image that the engine has not seen yet.
fn open(input: &[u8]) -> Arc<Sparse> {
    let mut image = Sparse::decode(input);
    if image.is_sealed {
        seal(&mut image);
    }
    Arc::new(image)
}

fn disk(image: &Arc<Sparse>) -> Raw {
    Raw::new(Arc::clone(image) as Arc<dyn Storage>)
}

/// Runs the engine within limits of memory and of work; the latter count reads, since clocks differ.
fn within<T>(limits: &Limits, image: &Sparse, run: impl FnOnce() -> T) -> T {
    let before = image.work();
    let (result, peak) = peak_of(run);
    let after = image.work();
    let (reads, bytes_read) = (after.0 - before.0, after.1 - before.1);
    assert!(peak <= limits.memory_bytes, "{peak} bytes of memory");
    assert!(reads <= limits.reads && bytes_read <= limits.bytes_read, "{reads} reads of {bytes_read} bytes");
    result
}

/// Bytes of a disk.
fn read(disk: &dyn Disk, place: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    disk.read_at(&mut buffer, place).expect("memory can be read");
    buffer
}
