//! What other tools pack is read, and they see the same members.

use std::process::Command;

use crate::forge::{Part, zip};
use crate::read;

/// Runs Python with a program and arguments; `None`, and a line, when there is none.
fn python(test: &str, program: &str, arguments: &[&str]) -> Option<String> {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: {test}: python3 is not installed");
        return None;
    }
    let output = Command::new("python3").args(["-c", program]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

const PACK: &str = "
import sys, zipfile
class Pipe:
    def __init__(self, file): self.file = file
    def write(self, data): return self.file.write(data)
    def flush(self): self.file.flush()
path, form = sys.argv[1:]
method = zipfile.ZIP_STORED if 'stored' in form else zipfile.ZIP_DEFLATED
file = open(path, 'wb')
with zipfile.ZipFile(Pipe(file) if 'pipe' in form else file, 'w', method) as archive:
    archive.writestr('pack/', b'')
    archive.writestr('pack/notes.txt', b'text')
    with archive.open('pack/\\u00e9.img', 'w', force_zip64='long' in form) as member:
        member.write(bytes(range(256)) * 5000)
";

#[test]
fn what_python_packs_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.zip");
    for form in ["stored", "deflated", "stored,pipe", "deflated,pipe", "deflated,long", "deflated,long,pipe"]
    {
        if python("what_python_packs_is_read", PACK, &[path.to_str().unwrap(), form]).is_none() {
            return;
        }
        let (name, content) =
            read(std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(name, "\u{e9}.img");
        assert!(content == (0..=255).collect::<Vec<u8>>().repeat(5000), "{form}");
    }
}

#[test]
fn what_zip_packs_is_read() {
    let test = "what_zip_packs_is_read";
    if Command::new("zip").arg("-v").output().is_err() {
        eprintln!("SKIPPED: {test}: zip is not installed");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("pack")).unwrap();
    std::fs::write(scratch.path().join("pack/disk.img"), vec![5; 1_000_000]).unwrap();
    std::fs::write(scratch.path().join("pack/notes"), b"text").unwrap();
    for arguments in [&["-r"][..], &["-r", "-0"], &["-r", "-9", "-z"], &["-r", "-fd"]] {
        let path = scratch.path().join("a.zip");
        let _ = std::fs::remove_file(&path);
        let mut command = Command::new("zip");
        command.current_dir(&scratch).arg("-q").args(arguments).args(["a.zip", "pack"]);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let (name, content) =
            read(std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert_eq!((name.as_str(), content.len()), ("disk.img", 1_000_000));
    }
}

const LIST: &str = "
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
print(','.join(archive.namelist()))
";

/// The archives of these tests are none but for what each test is about.
#[test]
fn sec_20_peers_see_the_same_members() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.zip");
    for part in [
        Part::stored("pack/disk.img", b"disk"),
        Part::deflated("pack/disk.img", b"disk").with_descriptor(),
        Part::deflated("pack/disk.img", b"disk").long(),
    ] {
        let bytes = zip(&[Part::stored("pack/", b""), part]);
        std::fs::write(&path, &bytes).unwrap();
        let Some(names) = python("sec_20_peers_see_the_same_members", LIST, &[path.to_str().unwrap()]) else {
            return;
        };
        assert_eq!(names.trim(), "pack/,pack/disk.img");
        assert_eq!(read(bytes).unwrap().0, "disk.img");
    }
}
