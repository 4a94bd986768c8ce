//! The imageops command: check, compress and inspect local images, and talk to a server.

fn main() {}
