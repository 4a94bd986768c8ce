//! The stable reason codes of the service, in one list; the engine's own are in `imageops_image::reason`.
//!
//! A code never changes its meaning and is never reused. docs/errors.md lists all.

/// A request member is missing, out of range, or not of its form.
pub const INVALID_ARGUMENT: &str = "INVALID_ARGUMENT";
/// The `file` source is not a regular file below the image root.
pub const FILE_NOT_FOUND: &str = "FILE_NOT_FOUND";
/// `file` sources belong to the built-in tenant alone.
pub const FILE_SOURCES_DENIED: &str = "FILE_SOURCES_DENIED";
/// The output's name is empty, leads out of the image root, or its directory does not exist.
pub const INVALID_OUTPUT_FILE: &str = "INVALID_OUTPUT_FILE";
/// The output would replace its own source.
pub const OUTPUT_IS_SOURCE: &str = "OUTPUT_IS_SOURCE";
/// No such image.
pub const IMAGE_NOT_FOUND: &str = "IMAGE_NOT_FOUND";
/// The image has no bytes to read.
pub const IMAGE_NOT_ACTIVE: &str = "IMAGE_NOT_ACTIVE";
/// The image is disabled: its bytes are not handed out.
pub const IMAGE_DISABLED: &str = "IMAGE_DISABLED";
/// The image lies in the trash.
pub const IMAGE_TRASHED: &str = "IMAGE_TRASHED";
/// The image does not lie in the trash.
pub const IMAGE_NOT_TRASHED: &str = "IMAGE_NOT_TRASHED";
/// The image is protected and refuses to be deleted.
pub const IMAGE_PROTECTED: &str = "IMAGE_PROTECTED";
/// The resource has changed since the etag was read.
pub const STALE_ETAG: &str = "STALE_ETAG";
/// No such job.
pub const JOB_NOT_FOUND: &str = "JOB_NOT_FOUND";
/// The job has ended already.
pub const JOB_ENDED: &str = "JOB_ENDED";
/// The job has not ended yet.
pub const JOB_NOT_ENDED: &str = "JOB_NOT_ENDED";
/// No such upload.
pub const UPLOAD_NOT_FOUND: &str = "UPLOAD_NOT_FOUND";
/// The upload was committed, aborted or refused.
pub const UPLOAD_ENDED: &str = "UPLOAD_ENDED";
/// Bytes of the upload that were durable are gone from the store.
pub const UPLOAD_BYTES_LOST: &str = "UPLOAD_BYTES_LOST";
/// Another stream took the upload over.
pub const UPLOAD_TAKEN_OVER: &str = "UPLOAD_TAKEN_OVER";
/// The messages of an upload came in an order that is not allowed.
pub const UPLOAD_SEQUENCE: &str = "UPLOAD_SEQUENCE";
/// A chunk does not start where the durable or received bytes end.
pub const WRONG_OFFSET: &str = "WRONG_OFFSET";
/// A chunk's CRC-32C is not that of its data.
pub const CHUNK_CHECKSUM: &str = "CHUNK_CHECKSUM";
/// The length is not the promised one, or above the limit.
pub const SIZE_MISMATCH: &str = "SIZE_MISMATCH";
/// The file is larger than the server takes.
pub const TOO_LARGE: &str = "TOO_LARGE";
/// The inspector refused the image.
pub const IMAGE_REFUSED: &str = "IMAGE_REFUSED";
/// A digest is not the promised one.
pub const DIGEST_MISMATCH: &str = "DIGEST_MISMATCH";
/// Nothing came for too long.
pub const IDLE: &str = "IDLE";
/// The requested range starts behind the end.
pub const RANGE_NOT_SATISFIABLE: &str = "RANGE_NOT_SATISFIABLE";
/// The request id stands for another request.
pub const REQUEST_ID_REUSED: &str = "REQUEST_ID_REUSED";
/// The queue, or the number of open uploads, is at its limit.
pub const LIMIT_REACHED: &str = "LIMIT_REACHED";
/// The server is going down.
pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// The catalogue or the store does not answer.
pub const UNAVAILABLE: &str = "UNAVAILABLE";
/// The job took longer than it may.
pub const TIMEOUT: &str = "TIMEOUT";
/// No or a wrong key.
pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
/// The key does not allow this.
pub const SCOPE_MISSING: &str = "SCOPE_MISSING";
/// A fault of the server; the log has more.
pub const INTERNAL: &str = "INTERNAL";
