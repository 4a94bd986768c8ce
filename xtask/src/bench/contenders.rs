//! What is run: ours and the peers'.

use std::path::Path;

/// Contenders of a group do the same work and are compared with each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// From the image to a compressed qcow2.
    Compress,
    /// From the image to figures and digests.
    Check,
}

/// One command.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// The command: [`SOURCE`] and [`OUTPUT`] stand for the files.
    pub(crate) words: Vec<String>,
}

impl Contender {
    /// Whether it is our program that runs.
    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with("imageops ")
    }
}

pub(crate) const SOURCE: &str = "SOURCE";
pub(crate) const OUTPUT: &str = "OUTPUT";

/// Rows that the others of their group are compared with.
pub(crate) const REFERENCES: [&str; 2] = ["imageops compress", "imageops check --digest md5"];

/// All contenders, ours first.
pub(crate) fn all(imageops: &Path) -> Vec<Contender> {
    let imageops = imageops.to_string_lossy();
    let contender = |name, group, line: &str| Contender {
        name,
        group,
        words: line
            .split(' ')
            .map(|word| if word == "imageops" { imageops.to_string() } else { word.into() })
            .collect(),
    };
    let mut all: Vec<_> = [
        ("imageops compress", ""),
        ("imageops compress, not verified", " --no-verify"),
        ("imageops compress, level 1", " --level 1"),
        ("imageops compress, level 1, not verified", " --level 1 --no-verify"),
        ("imageops compress, zstd", " --compression zstd"),
        ("imageops compress, zstd, not verified", " --compression zstd --no-verify"),
    ]
    .map(|(name, flags)| contender(name, Group::Compress, &format!("imageops compress SOURCE OUTPUT{flags}")))
    .into();
    all.extend([
        contender(
            "virt-sparsify --compress",
            Group::Compress,
            "virt-sparsify --quiet --compress --convert qcow2 SOURCE OUTPUT",
        ),
        contender("qemu-img convert -c", Group::Compress, "qemu-img convert -c -O qcow2 SOURCE OUTPUT"),
        contender(
            "qemu-img convert -c -m 16 -W",
            Group::Compress,
            "qemu-img convert -c -m 16 -W -O qcow2 SOURCE OUTPUT",
        ),
        contender("imageops check --digest md5", Group::Check, "imageops check SOURCE --digest md5"),
        contender(
            "imageops check --digest md5,sha256",
            Group::Check,
            "imageops check SOURCE --digest md5,sha256",
        ),
        contender("imageops check --digest none", Group::Check, "imageops check SOURCE --digest none"),
        contender("md5sum", Group::Check, "md5sum SOURCE"),
        contender("qemu-img check", Group::Check, "qemu-img check SOURCE"),
        Contender {
            name: "qemu-img check, then md5sum",
            group: Group::Check,
            words: ["sh", "-c", "qemu-img check -q \"$0\" && md5sum \"$0\"", SOURCE]
                .map(str::to_owned)
                .into(),
        },
    ]);
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{REFERENCES, all};

    #[test]
    fn every_reference_is_a_contender_with_a_group_of_its_own() {
        let all = all(Path::new("/bin/imageops"));
        let groups: Vec<_> = REFERENCES
            .map(|name| all.iter().find(|contender| contender.name == name).map(|found| found.group))
            .into();
        assert!(groups[0].is_some() && groups[1].is_some() && groups[0] != groups[1]);
    }
}
