//! Generated types and stubs of `imageops.v1`, nothing else.
