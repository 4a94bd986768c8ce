//! A catalogue of many rows: what a server has written, again and again.

use std::process::Command;

use super::Service;

/// Makes the images and jobs of a stopped server more, up to so many; how many there are then.
pub fn multiply(service: &Service, images: u64, jobs: u64) -> (u64, u64) {
    let made = Command::new("python3")
        .args(["-c", include_str!("multiply.py")])
        .arg(service.data_dir())
        .args([images, jobs].map(|count| count.to_string()))
        .output()
        .expect("python3 runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let counts = String::from_utf8(made.stdout).unwrap();
    let (images, jobs) = counts.trim().split_once(' ').expect("two counts");
    (images.parse().unwrap(), jobs.parse().unwrap())
}
