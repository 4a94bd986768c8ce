//! Every target on every seed, and on a number of changes of them that is the same at each run: what a change of the
//! engine must pass without libFuzzer. `IMAGEOPS_FUZZ_CHANGES` sets another number, for longer looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imageops_fuzz::seal::seal;
use imageops_fuzz::sparse::Sparse;
use imageops_fuzz::targets::{TARGETS, run};
use imageops_fuzz::{alone, change};
use imageops_image::Control;
use imageops_image::format::Raw;
use imageops_image::guest;

/// Changes of each target's seeds, together; a whole compression takes longer than a look.
const CHANGES: u64 = 2000;
const CHANGES_COMPRESSED: u64 = 500;
/// Changes to one seed that follow each other, the last one far from what any tool makes.
const STEPS: u64 = 5;
const LENGTH_MAX: usize = 64 << 10;

fn seeds(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Runs a target; a panic leaves the input where it can be looked at.
fn attempt(target: &str, input: &[u8], name: &str) {
    if std::panic::catch_unwind(|| run(target, input)).is_err() {
        let kept = std::env::temp_dir().join(format!("imageops-fuzz-{target}"));
        fs::write(&kept, input).unwrap();
        panic!("{target} fails on {name}, kept as {}", kept.display());
    }
}

fn pass(target: &str) {
    let _alone = alone();
    let usual = if target == "compress" { CHANGES_COMPRESSED } else { CHANGES };
    let changes = std::env::var("IMAGEOPS_FUZZ_CHANGES").map_or(usual, |text| text.parse().unwrap());
    let paths = seeds(target);
    assert!(!paths.is_empty());
    for (index, path) in (0..).zip(&paths) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let seed = fs::read(path).unwrap();
        attempt(target, &seed, name);
        let mut input = seed.clone();
        for number in 0..changes / paths.len() as u64 {
            if number % STEPS == 0 {
                input.clone_from(&seed);
            }
            input = change(&input, number * 1000 + index, LENGTH_MAX).unwrap_or_else(|| seed.clone());
            attempt(target, &input, &format!("change {number} of {name}"));
        }
    }
}

fn kept(image: Sparse) -> Vec<String> {
    let layout = guest::scan(&Raw::new(Arc::new(image)), &Control::default()).unwrap();
    let parts = layout.parts().iter().flat_map(|part| &part.summary().kept);
    parts.map(|kept| kept.reason.clone()).collect()
}

/// The tools that made the seeds had the checksums right: this shows that they are put where they belong.
#[test]
fn right_checksums_stay_and_wrong_ones_are_mended() {
    let _alone = alone();
    // A byte of the label, where the file system is the whole disk.
    let labels =
        [("tables", 0), ("ext", 1024 + 120), ("exfat", 0), ("xfs", 108), ("btrfs", 65_536 + 299), ("lvm", 0)];
    for (target, label) in labels {
        for path in seeds(target) {
            // Of the one there is nothing but the superblock, and the sums of the other are not known.
            if path.ends_with("ext4-error-state") || path.ends_with("xxhash") {
                continue;
            }
            let seed = fs::read(&path).unwrap();
            let mut image = Sparse::decode(&seed);
            seal(&mut image);
            assert!(image.encode() == seed, "{}", path.display());
            image.put(label, b"A");
            seal(&mut image);
            assert_eq!(kept(image), kept(Sparse::decode(&seed)), "{}", path.display());
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            pass(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let named = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|(name, _)| name).as_slice(), named);
        }
    };
}

targets!(qcow2_read qcow2_check inspect tables ext fat exfat ntfs xfs btrfs lvm swap compress zip packed);
