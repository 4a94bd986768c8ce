//! See `imageops_fuzz::targets`.

#![no_main]

imageops_fuzz::fuzz!(packed);
