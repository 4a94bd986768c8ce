//! REST faces over the RPCs of imageops.

fn main() {}
