//! Texts of the two legacy services. Clients compare them, misspellings included: they never change.
//!
//! Those of the file-system service that are errors go onto the wire in quotation marks, as one JSON string.

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

/// POST of an image or a chunk: there is no file in the form.
pub(super) const NO_FILE: &str = "Upload package file error";
/// POST of an image: its name cannot be taken.
pub(super) const BAD_UPLOAD_NAME: &str =
    "File shouldn't contains any extension or filename is larger than max size";
/// POST of an image: it is too long.
pub(super) const TOO_LARGE: &str = "File size is larger than max size";
/// POST of an image: it cannot be kept.
pub(super) const NOT_UPLOADED: &str = "fail to upload package";
/// POST of an image or merge: the zip holds no image, or is none.
pub(super) const NO_ZIP: &str = "Failed to decompress zip file";

/// POST `upload` kept the chunk. Builds differ in the full stop.
pub(super) const CHUNK_STORED: &str = "ok";
/// POST `upload` could not keep the chunk.
pub(super) const CHUNK_NOT_STORED: &str = "fail to save chunk file part";
/// GET `upload`.
pub(super) const UPLOAD_ALIVE: &str = "Upload get request received.";
/// DELETE `upload`, also of a session that is not there.
pub(super) const SESSION_CANCELLED: &str = "cancel success";
/// DELETE `upload` that names no session. The legacy service emptied its whole store.
pub(super) const NO_IDENTIFIER: &str = "identifier is required";
/// DELETE `upload` that failed.
pub(super) const SESSION_NOT_CANCELLED: &str = "fail to delete part file in vm";

/// GET `merge`.
pub(super) const MERGE_ALIVE: &str = "Merge get request received.";
/// POST `merge`: the name of the image to be cannot be taken.
pub(super) const BAD_MERGE_NAME: &str = "File should only be image file or filename is larger than max size";
/// POST `merge`: there is no such session.
pub(super) const NO_SESSION: &str = "fail to find the file path";
/// POST `merge`: a chunk is missing.
pub(super) const CHUNK_MISSING: &str = "fail to open the part file in path";

/// Download or slim of an image that is not there, or whose bytes are not handed out.
pub(super) const NO_IMAGE: &str = "file path doesn't exist";
/// Query of an image that is not there.
pub(super) fn no_record(id: &str) -> String {
    format!("there is no record in database with imageId: {id}")
}

/// POST `slim` took the work.
pub(super) const SLIM_STARTED: &str = "compress in progress";
/// POST `slim` could not start.
pub(super) const SLIM_NOT_STARTED: &str = "compress failed";
/// POST `slim` of an image that is being slimmed.
pub(super) const SLIM_RUNNING: &str = "The image file is being slimmed. No need to slim again.";
/// POST `slim` of an image that is slim.
pub(super) const SLIM_DONE: &str =
    "The image file has already been slimmed. No need to slim again. Pls request to check directly";
/// POST `slim` of what is no qcow2 image.
pub(super) const SLIM_NOT_SUPPORTED: &str =
    "This image cannot be slimmed because the type of image is not supported.";

/// DELETE of an image, also of one that is not there.
pub(super) const IMAGE_DELETED: &str = "delete success";
/// DELETE of an image that failed.
pub(super) const IMAGE_NOT_DELETED: &str = "fail to delete package in db";
