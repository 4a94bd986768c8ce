//! Where a command writes: a file that appears under its name when it is complete.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use imageops_image::output::{Existing, OutputFile};

use crate::exit::Failure;

/// Permission bits of a new file before the user's mask takes some away.
const MODE_NEW: u32 = 0o666;

/// A file to be written and the name that it gets.
pub(crate) struct Target {
    output: OutputFile,
    name: OsString,
    mode: u32,
}

impl Target {
    /// Prepares `path`; `source` is a file that it must not be.
    pub(crate) fn create(path: &Path, source: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error| Failure::io(path.display(), &error);
        let existing = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(existing) = &existing {
            if !existing.is_file() {
                let message = format!("{}: exists and is not a regular file", path.display());
                return Err(Failure::new(message).advise("name another output"));
            }
            if let Some(source) = source.and_then(|source| std::fs::metadata(source).ok())
                && (source.dev(), source.ino()) == (existing.dev(), existing.ino())
            {
                let message = format!("{}: is the input itself", path.display());
                return Err(Failure::new(message).advise("name another output"));
            }
        }
        // Through a link the file behind it is replaced, not the link.
        let path = if existing.is_some() { path.canonicalize().map_err(failed)? } else { path.to_owned() };
        let Some(name) = path.file_name().map(OsString::from).filter(|_| !ends_with_slash(&path)) else {
            return Err(
                Failure::new(format!("{}: not a file name", path.display())).advise("name a file to write")
            );
        };
        let directory = path.parent().map(PathBuf::from).unwrap_or_default();
        let output = OutputFile::create(&directory).map_err(|error| {
            let shown = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
            match &error.source {
                Some(source) => Failure::io(shown.display(), source),
                None => Failure::from(error),
            }
        })?;
        let mode =
            existing.map_or(MODE_NEW & !crate::user_mask(), |existing| existing.permissions().mode() & 0o777);
        Ok(Self { output, name, mode })
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &std::fs::File {
        self.output.file()
    }

    /// Flushes the file and gives it its name.
    pub(crate) fn publish(self) -> Result<(), Failure> {
        Ok(self.output.publish(&self.name, self.mode, Existing::Replace)?)
    }
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_input_is_never_the_output() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("disk");
        std::fs::write(&source, b"data").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("disk", &link).unwrap();
        let hard = directory.path().join("hard");
        std::fs::hard_link(&source, &hard).unwrap();
        for target in [&source, &link, &hard, &directory.path().join("./disk")] {
            assert!(Target::create(target, Some(&source)).is_err(), "{}", target.display());
        }
        for target in [directory.path(), Path::new("/dev/null"), &directory.path().join("none/disk")] {
            assert!(Target::create(target, Some(&source)).is_err(), "{}", target.display());
        }
    }

    #[test]
    fn a_file_behind_a_link_is_replaced_and_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let old = directory.path().join("old");
        std::fs::write(&old, b"old").unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("old", &link).unwrap();
        let target = Target::create(&link, None).unwrap();
        target.file().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        target.publish().unwrap();
        assert_eq!(std::fs::read(&old).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&old).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        drop(Target::create(&directory.path().join("dropped"), None).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
