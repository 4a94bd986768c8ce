//! The faces of the two EdgeGallery services, byte-compatible with what their clients know.

mod check;
mod compress;
pub(crate) mod file_system;
mod literals;
pub(crate) mod ops;
mod ops_answers;
mod python_json;
