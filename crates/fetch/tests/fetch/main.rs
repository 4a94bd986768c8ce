//! The gate and the sources behind it, against servers on loopback, which are allowed for these tests alone.

#![allow(clippy::unwrap_used, reason = "tests")]

mod gate;
mod hostile;
mod names;
mod source;
mod whole;
