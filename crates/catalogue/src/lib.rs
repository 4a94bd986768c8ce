//! Catalogue of imageops: images, uploads, jobs and keys.
