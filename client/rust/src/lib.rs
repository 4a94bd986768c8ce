//! Rust client of imageops: connect, resumable upload, reconnecting watch.
