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
/// No such store.
pub const STORE_NOT_FOUND: &str = "STORE_NOT_FOUND";
/// No such key.
pub const KEY_NOT_FOUND: &str = "KEY_NOT_FOUND";
/// A key with this id, or of this certificate, is there already.
pub const KEY_EXISTS: &str = "KEY_EXISTS";
/// A store with this name, or another one at this place, is registered already.
pub const STORE_EXISTS: &str = "STORE_EXISTS";
/// The store takes no new bytes.
pub const STORE_DISABLED: &str = "STORE_DISABLED";
/// The store is not there: unmounted, exchanged, unreachable, or refusing writes.
pub const STORE_DISCONNECTED: &str = "STORE_DISCONNECTED";
/// The store still holds images.
pub const STORE_NOT_EMPTY: &str = "STORE_NOT_EMPTY";
/// The directory lies in none of the store roots.
pub const STORE_ROOT: &str = "STORE_ROOT";
/// The last copy of an image's bytes stays.
pub const LAST_REPLICA: &str = "LAST_REPLICA";
/// The store holds a copy already, or none.
pub const REPLICA_STATE: &str = "REPLICA_STATE";
/// The id stands for another image, or for one that is gone.
pub const IMAGE_EXISTS: &str = "IMAGE_EXISTS";
/// The image is in quarantine: its bytes are not handed out.
pub const IMAGE_QUARANTINED: &str = "IMAGE_QUARANTINED";
/// The image is a companion of another one, and changes only with it.
pub const IMAGE_IS_COMPANION: &str = "IMAGE_IS_COMPANION";
/// The record has bytes, or is being filled by another upload.
pub const IMAGE_NOT_QUEUED: &str = "IMAGE_NOT_QUEUED";
/// The tenant would have more than it may.
pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
/// No such session, or one without a part.
pub const SESSION_NOT_FOUND: &str = "SESSION_NOT_FOUND";
/// The session is being composed.
pub const SESSION_BUSY: &str = "SESSION_BUSY";
/// A part of the session is missing.
pub const PART_MISSING: &str = "PART_MISSING";
/// The format cannot be made slim.
pub const SLIM_NOT_SUPPORTED: &str = "SLIM_NOT_SUPPORTED";
/// The image has a slim companion.
pub const SLIM_EXISTS: &str = "SLIM_EXISTS";
/// The image is being made slim.
pub const SLIM_IN_PROGRESS: &str = "SLIM_IN_PROGRESS";
/// The URL, or one that it was redirected to, is none that images may be imported from.
pub const URL_REFUSED: &str = "URL_REFUSED";
/// The source of an import does not answer as one.
pub const IMPORT_UNREACHABLE: &str = "IMPORT_UNREACHABLE";
/// The source of an import does not hand the file out.
pub const IMPORT_REFUSED: &str = "IMPORT_REFUSED";
/// The source of an import brings less than the minimum rate.
pub const IMPORT_TOO_SLOW: &str = "IMPORT_TOO_SLOW";
/// The file changed at its source while it was fetched.
pub const IMPORT_CHANGED: &str = "IMPORT_CHANGED";
/// The source of an import broke off before the end, again and again.
pub const IMPORT_CUT: &str = "IMPORT_CUT";
/// The source of an import answers against the rules.
pub const IMPORT_INVALID: &str = "IMPORT_INVALID";
/// Bytes that were read do not have their digest.
pub const BYTES_DAMAGED: &str = "BYTES_DAMAGED";
/// Slimming had failed, or was cut off, where the image was imported from.
pub const LEGACY_SLIM_FAILED: &str = "LEGACY_SLIM_FAILED";
