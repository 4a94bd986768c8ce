//! Texts of the legacy service `imageops`. Clients compare them, misspellings included: they never change.

/// POST `check` took the work.
pub(super) const CHECK_STARTED: &str = "Check In Progress";
/// POST `check` could not start.
pub(super) const CHECK_NOT_STARTED: &str = "Check Failed";

/// GET `check`, status 0.
pub(super) const CHECK_CONSISTENT: &str = "Check Completed, the image is (now) consistent";
/// GET `check`, status 1.
pub(super) const CHECK_CORRUPT: &str = "Check completed, image is corrupted";
/// GET `check`, status 2.
pub(super) const CHECK_LEAKS: &str = "Check completed, image has leaked clusters, but is not corrupted";
/// GET `check`, status 3.
pub(super) const CHECK_FAILED: &str = "Check failed";
/// GET `check`, status 4.
pub(super) const CHECK_RUNNING: &str = "Check in Progress";
/// GET `check`, status 5.
pub(super) const CHECK_NOT_SUPPORTED: &str = "Check Exiting because of not support this type of image";
/// GET `check`, status 6.
pub(super) const CHECK_TIMEOUT: &str = "Check Time Out";
/// GET `check` of an id that is no check.
pub(super) const CHECK_UNKNOWN: &str = "Check failed, nonexistent request ID";

/// POST `compress` took the work; the line feed is part of it.
pub(super) const COMPRESS_STARTED: &str = "Compress In Progress\n";
/// GET `compress`, status 0.
pub(super) const COMPRESS_COMPLETED: &str = "Compress Completed";
/// GET `compress`, status 1.
pub(super) const COMPRESS_RUNNING: &str = "Compress In Progress";
/// GET `compress`, status 2; POST `compress` that could not start.
pub(super) const COMPRESS_FAILED: &str = "Compress Failed";
/// GET `compress` of an id that is no compression.
pub(super) const COMPRESS_UNKNOWN: &str = "Compress Failed, nonexistent request ID";
/// GET `compress`, status 3; POST `compress` without room for the output.
pub(super) const COMPRESS_NO_SPACE: &str = "Compress Exiting because of No enouth space left";
/// GET `compress`, status 4.
pub(super) const COMPRESS_TIMEOUT: &str = "Compress Time Out";

/// The input's name is missing, or is no name.
pub(super) const LACKING_INPUT: &str = "Lacking inputImageName in request body.";
/// The output's name is missing, or is no name.
pub(super) const LACKING_OUTPUT: &str = "Lacking outputImageName in request body.";
/// The output would be outside the image root.
pub(super) const INVALID_OUTPUT: &str = "Invalid outputImageName in request body.";

/// The input of a check is no file below the image root.
pub(super) fn check_input_missing(name: &str) -> String {
    format!("Given image {name} is not exist.")
}

/// The input of a compression is no file below the image root.
pub(super) fn compress_input_missing(name: &str) -> String {
    format!("Image {name} is not exist.")
}
