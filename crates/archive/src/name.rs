//! What a member is called: a label, never a path.

/// Extensions of images, with their case.
const EXTENSIONS: [&str; 3] = ["qcow2", "img", "iso"];

/// What stands behind the last separator, of whichever system.
pub(crate) fn base(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// Whether a file of this name is taken for an image.
pub(crate) fn is_image(name: &str) -> bool {
    let base = base(name);
    let folders = name.strip_suffix(base).unwrap_or_default();
    if base.starts_with("._") || folders.split(['/', '\\']).any(|folder| folder == "__MACOSX") {
        return false;
    }
    base.rsplit_once('.').is_some_and(|(stem, extension)| {
        EXTENSIONS.contains(&extension) && stem.chars().any(|character| character != '.')
    })
}

/// Two names that are equal here meet in the file system of somebody.
pub(crate) fn folded(name: &str) -> String {
    name.replace('\\', "/").trim_end_matches('/').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_names() {
        for name in
            ["a.img", "a/b.qcow2", "../../x.iso", "C:\\disk.img", ".a.img", "a b/ü.img", "__MACOSX.img"]
        {
            assert!(is_image(name), "{name}");
        }
        for name in [
            "a.IMG",
            "a.Qcow2",
            "img",
            ".img",
            "...img",
            "a/.iso",
            "a.zip",
            "a.img.gz",
            "a.img/",
            "",
            "._a.img",
            "x/._a.img",
            "__MACOSX/a.img",
            "__MACOSX/x/a.img",
            "x\\__MACOSX\\a.img",
        ] {
            assert!(!is_image(name), "{name}");
        }
        assert_eq!(base("a/b\\c.img"), "c.img");
    }

    #[test]
    fn names_that_meet_are_equal_folded() {
        assert_eq!(folded("A/B.img"), folded("a\\b.IMG"));
        assert_eq!(folded("É"), folded("é"));
        assert_eq!(folded("a/"), folded("a"));
        assert_ne!(folded("a/b"), folded("ab"));
    }
}
