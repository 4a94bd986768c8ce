//! What is run: ours and the peers'.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Contenders of a group do the same work and are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// From an image to a compressed qcow2 without what the guest has freed.
    Compress,
    /// The same from an image that is compressed already.
    Repack,
    /// From an image to figures and digests.
    Check,
    /// From an image to figures alone.
    Tables,
}

impl Group {
    /// Heading of its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Compress => "Compress",
            Self::Repack => "Compress what is compressed",
            Self::Check => "Check, with digests",
            Self::Tables => "Check, the tables alone",
        }
    }

    /// Whether an image is written.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Compress | Self::Repack)
    }
}

/// One command.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The command: [`SOURCE`] and [`OUTPUT`] stand for the files.
    pub(crate) words: Vec<String>,
}

impl Contender {
    /// Whether it is our program that runs.
    pub(crate) fn is_ours(&self) -> bool {
        is_ours(self.name)
    }
}

/// Whether a row of that name is our program.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with("imageops ")
}

pub(crate) const SOURCE: &str = "SOURCE";
pub(crate) const OUTPUT: &str = "OUTPUT";

const SPARSIFY: (&str, &str) =
    ("virt-sparsify --compress", "virt-sparsify --quiet --compress --convert qcow2 SOURCE OUTPUT");
const CONVERT: (&str, &str) = ("qemu-img convert -c", "qemu-img convert -c -O qcow2 SOURCE OUTPUT");
const CONVERT_PARALLEL: (&str, &str) =
    ("qemu-img convert -c -m 16 -W", "qemu-img convert -c -m 16 -W -O qcow2 SOURCE OUTPUT");

/// Names and commands of a group. The first is ours and the one that all others are compared with.
const COMPRESS: &[(&str, &str)] = &[
    ("imageops compress", "imageops compress SOURCE OUTPUT"),
    ("imageops compress --no-verify", "imageops compress SOURCE OUTPUT --no-verify"),
    ("imageops compress --level fast", "imageops compress SOURCE OUTPUT --level fast"),
    ("imageops compress --compression zstd", "imageops compress SOURCE OUTPUT --compression zstd"),
    SPARSIFY,
    CONVERT,
    CONVERT_PARALLEL,
];

const REPACK: &[(&str, &str)] = &[
    ("imageops compress", "imageops compress SOURCE OUTPUT"),
    ("imageops compress --recompress always", "imageops compress SOURCE OUTPUT --recompress always"),
    CONVERT,
    CONVERT_PARALLEL,
];

const CHECK: &[(&str, &str)] = &[
    ("imageops check --digest md5", "imageops check SOURCE --digest md5"),
    ("imageops check", "imageops check SOURCE"),
    ("md5sum", "md5sum SOURCE"),
];

const TABLES: &[(&str, &str)] = &[
    ("imageops check --digest none", "imageops check SOURCE --digest none"),
    ("qemu-img check", "qemu-img check SOURCE"),
];

/// The contenders of a group, ours first.
pub(crate) fn of(group: Group, imageops: &Path) -> Vec<Contender> {
    let imageops = imageops.to_string_lossy();
    let command = |line: &str| {
        let word = |word: &str| if word == "imageops" { imageops.to_string() } else { word.to_owned() };
        line.split(' ').map(word).collect()
    };
    let list = match group {
        Group::Compress => COMPRESS,
        Group::Repack => REPACK,
        Group::Check => CHECK,
        Group::Tables => TABLES,
    };
    let mut all: Vec<_> = list.iter().map(|&(name, line)| Contender { name, words: command(line) }).collect();
    if group == Group::Check {
        let words = ["sh", "-c", "qemu-img check -q \"$0\" && md5sum \"$0\"", SOURCE].map(str::to_owned);
        all.push(Contender { name: "qemu-img check, then md5sum", words: words.into() });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Group, of};

    #[test]
    fn each_group_compares_ours_with_a_peer() {
        for group in [Group::Compress, Group::Repack, Group::Check, Group::Tables] {
            let all = of(group, Path::new("/bin/imageops"));
            assert!(all[0].is_ours() && all[0].words[0] == "/bin/imageops", "{group:?}");
            assert!(all.iter().any(|contender| !contender.is_ours()), "{group:?}");
        }
    }
}
