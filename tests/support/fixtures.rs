//! Images and zips that peers make: qemu-img, and Python's zipfile.

use std::path::Path;
use std::process::Command;

use super::images::{have, qemu_img};
use super::random::Random;

/// A qcow2 image of 64 MiB with 1 MiB of data, as `qemu-img` and `qemu-io` write it. `None`: the skip has been noted.
pub fn good(scratch: &Path) -> Option<Vec<u8>> {
    if !(have("qemu-img") && have("qemu-io")) {
        return None;
    }
    let path = scratch.join("good.qcow2");
    let name = path.to_str().expect("a path that is text");
    assert!(qemu_img(["create", "-q", "-f", "qcow2", name, "64M"]).status.success());
    let written = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "write -P 90 0 1M", name])
        .output()
        .expect("qemu-io runs");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stdout));
    Some(std::fs::read(path).expect("the image"))
}

/// A qcow2 image whose compression takes a while: half of it is noise, half is not.
pub fn noisy(scratch: &Path, mib: usize) -> Option<Vec<u8>> {
    if !have("qemu-img") {
        return None;
    }
    let mut random = Random::from_seed(7);
    let mut raw = Vec::with_capacity(mib << 20);
    for _ in 0..mib {
        raw.extend(random.bytes(1 << 19));
        raw.extend(random.bytes(1 << 19).iter().map(|byte| byte & 15));
    }
    let (source, target) = (scratch.join("noise.raw"), scratch.join("noise.qcow2"));
    std::fs::write(&source, raw).expect("room for an image");
    let converted = qemu_img([
        "convert".as_ref(),
        "-f".as_ref(),
        "raw".as_ref(),
        "-O".as_ref(),
        "qcow2".as_ref(),
        source.as_os_str(),
        target.as_os_str(),
    ]);
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    Some(std::fs::read(target).expect("the image"))
}

fn number(image: &[u8], at: usize) -> usize {
    let bytes = image[at..at + 8].try_into().expect("eight bytes");
    usize::try_from(u64::from_be_bytes(bytes)).expect("an offset in memory")
}

/// The same image with one cluster that is counted and not used.
pub fn leaky(good: &[u8]) -> Vec<u8> {
    let mut image = good.to_vec();
    let l2 = number(good, number(good, 40)) & 0x00ff_ffff_ffff_fe00;
    image[l2..l2 + 8].fill(0);
    image
}

/// The same image with two clusters that are used and not counted.
pub fn corrupt(good: &[u8]) -> Vec<u8> {
    let mut image = good.to_vec();
    let block = number(good, number(good, 48));
    let used: Vec<_> = (block..block + 65_536).step_by(2).filter(|at| good[*at..at + 2] != [0, 0]).collect();
    for at in &used[used.len() - 2..] {
        image[*at..at + 2].fill(0);
    }
    image
}

/// A qcow2 image that names a backing file, and as much behind its header as it takes to be this long.
pub fn with_backing_file(length_bytes: usize) -> Vec<u8> {
    let mut image = vec![0; length_bytes];
    image[..4].copy_from_slice(b"QFI\xfb");
    image[4..8].copy_from_slice(&3_u32.to_be_bytes());
    image[8..16].copy_from_slice(&512_u64.to_be_bytes());
    image[16..20].copy_from_slice(&11_u32.to_be_bytes());
    image[20..24].copy_from_slice(&16_u32.to_be_bytes());
    image[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    image[512..523].copy_from_slice(b"/etc/passwd");
    image
}

/// Noise that is no image format.
pub fn raw(test: &str) -> Vec<u8> {
    Random::new(test).bytes(65_536)
}

/// A zip as Python writes it: names that end with a slash are folders. `None`: the skip has been noted.
pub fn zip(scratch: &Path, entries: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    const WRITE: &str = "import sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:\n\
        \x20   for name, path in zip(sys.argv[2::2], sys.argv[3::2]):\n\
        \x20       z.writestr(name, open(path, 'rb').read())\n";
    if !have("python3") {
        return None;
    }
    let target = scratch.join("made.zip");
    let mut command = Command::new("python3");
    command.args(["-c", WRITE]).arg(&target);
    for (index, (name, data)) in entries.iter().enumerate() {
        let path = scratch.join(format!("entry-{index}"));
        std::fs::write(&path, data).expect("room for an entry");
        command.arg(name).arg(path);
    }
    let output = command.output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(target).expect("the zip"))
}

/// The entries of a zip as Python reads them: name, method, bytes.
pub fn unzip(scratch: &Path, zip: &[u8]) -> Vec<(String, u64, Vec<u8>)> {
    const READ: &str = "import json, sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1])\n\
        assert z.testzip() is None\n\
        for n, i in enumerate(z.infolist()):\n\
        \x20   open('%s/out-%d' % (sys.argv[2], n), 'wb').write(z.read(i))\n\
        print(json.dumps([[i.filename, i.compress_type] for i in z.infolist()]))\n";
    let path = scratch.join("read.zip");
    std::fs::write(&path, zip).expect("room for a zip");
    let output =
        Command::new("python3").args(["-c", READ]).arg(path).arg(scratch).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries: Vec<(String, u64)> = serde_json::from_slice(&output.stdout).expect("a list");
    let read = |index| std::fs::read(scratch.join(format!("out-{index}"))).expect("an entry");
    entries.into_iter().enumerate().map(|(index, (name, method))| (name, method, read(index))).collect()
}
