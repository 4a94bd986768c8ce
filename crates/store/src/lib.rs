//! Blob stores of imageops: staging, publishing and reading the bytes of images.
