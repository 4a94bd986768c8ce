//! Container formats of disk images.
