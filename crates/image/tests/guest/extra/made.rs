//! File systems that the tools make, and what the tools say of their journals and inode tables.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::ext::peer_free;
use crate::peers::{run, run_ok, text};
use crate::proofs::Numbers;

/// A kind of file system: a name, and how it is made.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    options: &'static [&'static str],
    size: &'static str,
    /// The gain of the journal is there.
    pub(crate) journal: bool,
    /// The gain of the inode tables is there.
    pub(crate) tables: bool,
}

const fn kind(
    name: &'static str,
    options: &'static [&'static str],
    size: &'static str,
    journal: bool,
    tables: bool,
) -> Kind {
    Kind { name, options, size, journal, tables }
}

/// Every place where journals and tables differ.
pub(crate) const KINDS: [Kind; 14] = [
    kind("ext3-1k", &["-t", "ext3", "-b", "1024"], "60M", true, false),
    kind("ext3-4k", &["-t", "ext3", "-b", "4096", "-J", "size=40"], "300M", true, false),
    kind("ext4-1k", &["-t", "ext4", "-b", "1024"], "100M", true, true),
    kind("ext4-4k", &["-t", "ext4", "-b", "4096", "-J", "size=16"], "600M", true, true),
    kind("ext4-large", &["-t", "ext4", "-b", "4096", "-J", "size=200"], "1200M", true, true),
    kind("ext4-64bit", &["-t", "ext4", "-b", "4096", "-O", "64bit"], "300M", true, true),
    kind("ext4-32bit", &["-t", "ext4", "-b", "2048", "-O", "^64bit"], "300M", true, true),
    kind("ext4-no-flex", &["-t", "ext4", "-b", "4096", "-O", "^flex_bg"], "300M", true, true),
    kind("ext4-uninit", &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg"], "300M", true, true),
    kind(
        "ext4-no-csum",
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg"],
        "100M",
        true,
        false,
    ),
    kind("ext4-bigalloc", &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"], "2G", true, true),
    kind("ext4-fast-commit", &["-t", "ext4", "-b", "4096", "-O", "fast_commit"], "300M", true, true),
    kind("ext4-blocks", &["-t", "ext4", "-b", "1024", "-O", "^extents,^64bit"], "100M", true, true),
    kind("ext2", &["-t", "ext2", "-b", "4096"], "100M", false, false),
];

/// Makes a file system with files in it and noise wherever the tools leave something alone.
pub(crate) fn make(kind: &Kind, scratch: &Path) -> Option<PathBuf> {
    let target = scratch.join(format!("{}.raw", kind.name));
    let tree = scratch.join("tree");
    if !tree.exists() {
        grow(&tree);
    }
    let mut arguments = vec!["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
    arguments.extend(["-d", text(&tree)]);
    arguments.extend(kind.options);
    arguments.extend([text(&target), kind.size]);
    let output = run("mke2fs", &arguments);
    if !output.status.success() {
        // Older tools do not know every feature; the peers of today do.
        eprintln!("mke2fs does not make {}: {}", kind.name, String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(target)
}

fn grow(tree: &Path) {
    std::fs::create_dir(tree).unwrap();
    let mut numbers = Numbers(7);
    for number in 0..40 {
        let directory = tree.join(format!("d{}", number % 5));
        std::fs::create_dir_all(&directory).unwrap();
        let length = numbers.below(60_000);
        let content: Vec<u8> = (0..length).map(|_| numbers.below(256) as u8).collect();
        std::fs::write(directory.join(format!("f{number}")), content).unwrap();
    }
}

/// Writes noise into `ranges`, so that dropping them can be told from leaving them.
pub(crate) fn soil(file: &Path, ranges: &[Range<u64>]) {
    let mut numbers = Numbers(11);
    let noise: Vec<u8> = (0..1 << 16).map(|_| 1 + numbers.below(255) as u8).collect();
    let file = File::options().write(true).open(file).unwrap();
    for range in ranges {
        for place in range.clone().step_by(noise.len()) {
            let length = noise.len().min((range.end - place) as usize);
            file.write_all_at(&noise[..length], place).unwrap();
        }
    }
}

/// A figure in the head of what `dumpe2fs` says.
pub(crate) fn number(dump: &str, name: &str) -> Option<u64> {
    let line = dump.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// The data blocks of the journal by debugfs, but for the first one, in bytes.
pub(crate) fn peer_journal(file_system: &Path) -> Vec<Range<u64>> {
    let block = number(&run_ok("dumpe2fs", &["-h", text(file_system)]), "Block size").unwrap();
    let map = run_ok("debugfs", &["-R", "blocks <8>", text(file_system)]);
    let mut blocks: Vec<u64> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The blocks of the map itself are listed, too.
    let stat = run_ok("debugfs", &["-R", "stat <8>", text(file_system)]);
    blocks.retain(|number| !tree_blocks(&stat).contains(number));
    let first = stat_first(&stat);
    blocks.retain(|number| *number != first);
    blocks.sort_unstable();
    join(blocks.into_iter().map(|number| number * block..(number + 1) * block))
}

fn join(pieces: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for piece in pieces {
        match ranges.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => ranges.push(piece),
        }
    }
    ranges
}

/// The words `(name):place` of debugfs' map.
fn places(stat: &str) -> Vec<(String, u64)> {
    let tail = stat.split("BLOCKS:").nth(1).or_else(|| stat.split("EXTENTS:").nth(1)).unwrap_or("");
    let words = tail.split([',', '\n']).filter_map(|word| word.trim().strip_prefix('('));
    words
        .filter_map(|word| {
            let (name, place) = word.split_once("):")?;
            Some((name.to_owned(), place.split('-').next()?.trim().parse().ok()?))
        })
        .collect()
}

/// Blocks of the map itself.
pub(crate) fn tree_blocks(stat: &str) -> Vec<u64> {
    let own = |name: &str| name.starts_with("ETB") || name.ends_with("IND");
    places(stat).into_iter().filter(|(name, _)| own(name)).map(|(_, place)| place).collect()
}

fn stat_first(stat: &str) -> u64 {
    let first = |name: &str| name == "0" || name.starts_with("0-");
    places(stat).into_iter().find(|(name, _)| first(name)).unwrap().1
}

/// Bytes of inode tables that `dumpe2fs` calls unused, whole blocks only.
pub(crate) fn peer_tables(file_system: &Path) -> Vec<Range<u64>> {
    let dump = run_ok("dumpe2fs", &[text(file_system)]);
    let block = number(&dump, "Block size").unwrap();
    let inode = number(&dump, "Inode size").unwrap();
    let per_group = number(&dump, "Inodes per group").unwrap();
    let mut ranges = Vec::new();
    let mut table = 0..0;
    for line in dump.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Inode table at ") {
            let (first, rest) = rest.split_once('-').unwrap();
            let first: u64 = first.parse().unwrap();
            let last: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            table = first * block..(last + 1) * block;
        }
        let unused = line.split(", ").find_map(|word| word.strip_suffix(" unused inodes"));
        if let Some(unused) = unused {
            let unused: u64 = unused.parse().unwrap();
            let used = ((per_group - unused) * inode).next_multiple_of(block);
            if table.start + used < table.end {
                ranges.push(table.start + used..table.end);
            }
        }
    }
    ranges.sort_unstable_by_key(|range| range.start);
    join(ranges.into_iter())
}

/// All that may go: what the tools call free, the journal's body, unused inodes.
pub(crate) fn peer_all(file_system: &Path, journal: bool) -> Vec<Range<u64>> {
    let mut all = peer_free(file_system);
    if journal {
        all.extend(peer_journal(file_system));
    }
    all.extend(peer_tables(file_system));
    all.sort_unstable_by_key(|range| range.start);
    join(all.into_iter())
}
