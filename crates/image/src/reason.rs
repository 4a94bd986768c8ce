//! The stable reason codes of errors, verdicts and kept parts, in one list.
//!
//! A code never changes its meaning and is never reused.

/// No room left on the target's file system.
pub const NO_SPACE: &str = "NO_SPACE";
/// Reading or writing failed.
pub const IO: &str = "IO";
/// The caller cancelled the operation.
pub const CANCELLED: &str = "CANCELLED";
/// The source changed while it was read.
pub const SOURCE_CHANGED: &str = "SOURCE_CHANGED";

/// The file is empty.
pub const INVALID_EMPTY: &str = "INVALID_EMPTY";
/// The file ends before something that its header promises.
pub const INVALID_TRUNCATED: &str = "INVALID_TRUNCATED";
/// The magic of the declared format is missing.
pub const INVALID_MAGIC: &str = "INVALID_MAGIC";
/// The version of the format does not exist.
pub const INVALID_VERSION: &str = "INVALID_VERSION";
/// The cluster size is outside the format's limits.
pub const INVALID_CLUSTER_BITS: &str = "INVALID_CLUSTER_BITS";
/// The length of the header is outside the format's limits.
pub const INVALID_HEADER_LENGTH: &str = "INVALID_HEADER_LENGTH";
/// An incompatible feature bit that is not on the list of known ones.
pub const INVALID_INCOMPATIBLE_FEATURE: &str = "INVALID_INCOMPATIBLE_FEATURE";
/// The width of refcounts is outside the format's limits.
pub const INVALID_REFCOUNT_ORDER: &str = "INVALID_REFCOUNT_ORDER";
/// The refcount table is missing.
pub const INVALID_REFCOUNT_TABLE: &str = "INVALID_REFCOUNT_TABLE";
/// The L1 table is too small for the disk.
pub const INVALID_L1_SIZE: &str = "INVALID_L1_SIZE";
/// A table does not start at a cluster, or lies outside all offsets.
pub const INVALID_TABLE_OFFSET: &str = "INVALID_TABLE_OFFSET";
/// The encryption method does not exist.
pub const INVALID_ENCRYPTION: &str = "INVALID_ENCRYPTION";
/// The compression type does not exist, or contradicts its feature bit.
pub const INVALID_COMPRESSION: &str = "INVALID_COMPRESSION";
/// A header extension is malformed.
pub const INVALID_EXTENSION: &str = "INVALID_EXTENSION";
/// The table of internal snapshots is malformed.
pub const INVALID_SNAPSHOT_TABLE: &str = "INVALID_SNAPSHOT_TABLE";
/// The directory of bitmaps is malformed.
pub const INVALID_BITMAPS: &str = "INVALID_BITMAPS";
/// The content is not of the format that was declared.
pub const INVALID_FORMAT_MISMATCH: &str = "INVALID_FORMAT_MISMATCH";
/// The image names a backing file.
pub const UNSAFE_BACKING_FILE: &str = "UNSAFE_BACKING_FILE";
/// The image names, or needs, an external data file.
pub const UNSAFE_DATA_FILE: &str = "UNSAFE_DATA_FILE";
/// The disk is larger than the limit.
pub const UNSAFE_VIRTUAL_SIZE: &str = "UNSAFE_VIRTUAL_SIZE";
/// A table or a list is larger than the limit.
pub const UNSAFE_LIMIT: &str = "UNSAFE_LIMIT";
/// The file is several formats at once.
pub const UNSAFE_POLYGLOT: &str = "UNSAFE_POLYGLOT";
/// The image is a description that names other files.
pub const UNSAFE_DESCRIPTOR: &str = "UNSAFE_DESCRIPTOR";
/// A format that is known but not taken.
pub const UNSUPPORTED_FORMAT: &str = "UNSUPPORTED_FORMAT";
/// The image is encrypted.
pub const UNSUPPORTED_ENCRYPTION: &str = "UNSUPPORTED_ENCRYPTION";
/// The image was not closed: its refcounts may lag.
pub const CORRUPT_DIRTY: &str = "CORRUPT_DIRTY";
/// The image is marked as damaged.
pub const CORRUPT_MARKED: &str = "CORRUPT_MARKED";
/// Tables contradict each other.
pub const CORRUPT_TABLES: &str = "CORRUPT_TABLES";
/// Data that the tables promise lie past the end of the file.
pub const CORRUPT_TRUNCATED: &str = "CORRUPT_TRUNCATED";
/// A compressed cluster cannot be decoded into exactly one cluster.
pub const CORRUPT_COMPRESSED_CLUSTER: &str = "CORRUPT_COMPRESSED_CLUSTER";

/// The output would grow past the caller's limit.
pub const OUTPUT_LIMIT: &str = "OUTPUT_LIMIT";
/// The disk is larger than the output format can hold with its cluster size.
pub const OUTPUT_DISK_TOO_LARGE: &str = "OUTPUT_DISK_TOO_LARGE";
/// The finished output does not read back as what went in.
pub const OUTPUT_DIFFERS: &str = "OUTPUT_DIFFERS";
/// The name of the output is not a plain file name.
pub const OUTPUT_NAME: &str = "OUTPUT_NAME";
/// Something of the output's name exists already and must not be replaced.
pub const OUTPUT_EXISTS: &str = "OUTPUT_EXISTS";
/// No such compression level.
pub const COMPRESSION_LEVEL: &str = "COMPRESSION_LEVEL";
/// The coder has no such window.
pub const COMPRESSION_WINDOW: &str = "COMPRESSION_WINDOW";

/// In place: another program uses the image.
pub const IN_PLACE_IN_USE: &str = "IN_PLACE_IN_USE";
/// In place: the image has internal snapshots.
pub const IN_PLACE_SNAPSHOTS: &str = "IN_PLACE_SNAPSHOTS";
/// In place: the image has bitmaps of what changed.
pub const IN_PLACE_BITMAPS: &str = "IN_PLACE_BITMAPS";
/// In place: the image has a feature that a change by someone who does not know it switches off.
pub const IN_PLACE_UNKNOWN_FEATURE: &str = "IN_PLACE_UNKNOWN_FEATURE";
/// In place: the check of the image is not clean.
pub const IN_PLACE_NOT_CLEAN: &str = "IN_PLACE_NOT_CLEAN";
/// In place: the file system cannot give back the room of a piece of a file.
pub const IN_PLACE_NO_HOLES: &str = "IN_PLACE_NO_HOLES";

/// Kept: nothing was recognised.
pub const KEPT_UNKNOWN_CONTENT: &str = "KEPT_UNKNOWN_CONTENT";
/// Kept: recognised, but its free space is not read.
pub const KEPT_NO_READER: &str = "KEPT_NO_READER";
/// Kept: encrypted.
pub const KEPT_ENCRYPTED: &str = "KEPT_ENCRYPTED";
/// Kept: a member of a RAID set, a pool or another volume manager.
pub const KEPT_VOLUME_MANAGER: &str = "KEPT_VOLUME_MANAGER";
/// Kept: a hash tree vouches for every block, the free ones too.
pub const KEPT_VERIFIED: &str = "KEPT_VERIFIED";
/// Kept: a hibernated system lies there.
pub const KEPT_HIBERNATED: &str = "KEPT_HIBERNATED";
/// Kept: signatures of two contents in one place.
pub const KEPT_TWO_SIGNATURES: &str = "KEPT_TWO_SIGNATURES";
/// Kept: the partition table is damaged or lies.
pub const KEPT_TABLE_INVALID: &str = "KEPT_TABLE_INVALID";
/// Kept: two partition tables, or two copies of one, contradict each other.
pub const KEPT_TABLE_CONFLICT: &str = "KEPT_TABLE_CONFLICT";
/// Kept: the file system's journal must be replayed first.
pub const KEPT_NEEDS_RECOVERY: &str = "KEPT_NEEDS_RECOVERY";
/// Kept: the file system has recorded errors.
pub const KEPT_ERROR_STATE: &str = "KEPT_ERROR_STATE";
/// Kept: the file system was not cleanly unmounted.
pub const KEPT_NOT_CLEAN: &str = "KEPT_NOT_CLEAN";
/// Kept: the file system is in use.
pub const KEPT_IN_USE: &str = "KEPT_IN_USE";
/// Kept: the file system uses a feature that is not understood.
pub const KEPT_UNKNOWN_FEATURE: &str = "KEPT_UNKNOWN_FEATURE";
/// Kept: a checksum of the file system's own structures is wrong.
pub const KEPT_CHECKSUM: &str = "KEPT_CHECKSUM";
/// Kept: sizes or places in the file system contradict each other or the device.
pub const KEPT_GEOMETRY: &str = "KEPT_GEOMETRY";
/// Kept: figures of the file system's free space contradict each other.
pub const KEPT_FREE_COUNT: &str = "KEPT_FREE_COUNT";
/// Kept: a part of the file system, or of the logical volume, lies on another device.
pub const KEPT_OTHER_DEVICE: &str = "KEPT_OTHER_DEVICE";
/// Kept: the structures of the file system are too scattered for the memory they may take.
pub const KEPT_LIMIT: &str = "KEPT_LIMIT";
/// Kept: shadow copies still use what the file system calls free.
pub const KEPT_SHADOW_COPIES: &str = "KEPT_SHADOW_COPIES";
/// Kept: a change of the whole is under way.
pub const KEPT_CHANGE_UNDER_WAY: &str = "KEPT_CHANGE_UNDER_WAY";
/// Kept: a block of a tree is not the one that the tree names, or contradicts itself.
pub const KEPT_TREE: &str = "KEPT_TREE";
/// Kept: the description of a volume group cannot be read, or contradicts itself.
pub const KEPT_METADATA_INVALID: &str = "KEPT_METADATA_INVALID";
/// Kept: two descriptions of a volume group contradict each other.
pub const KEPT_METADATA_CONFLICT: &str = "KEPT_METADATA_CONFLICT";
/// Kept: a physical volume without a volume group.
pub const KEPT_NO_VOLUME_GROUP: &str = "KEPT_NO_VOLUME_GROUP";
/// Kept: the volume group is exported.
pub const KEPT_EXPORTED: &str = "KEPT_EXPORTED";
/// Kept: the volume group is shared with other hosts.
pub const KEPT_SHARED: &str = "KEPT_SHARED";
/// Kept: the volume group misses a physical volume.
pub const KEPT_MISSING_VOLUME: &str = "KEPT_MISSING_VOLUME";
/// Kept: a logical volume of a type that is not looked into.
pub const KEPT_VOLUME_TYPE: &str = "KEPT_VOLUME_TYPE";
/// Kept: a logical volume that has a snapshot, or is one.
pub const KEPT_SNAPSHOT: &str = "KEPT_SNAPSHOT";
/// Kept: a logical volume that another one is made of.
pub const KEPT_COMPONENT: &str = "KEPT_COMPONENT";
/// Kept: a partition table or a physical volume inside a logical volume.
pub const KEPT_NESTED: &str = "KEPT_NESTED";
/// Kept: the body of a journal, since something about it is odd.
pub const KEPT_JOURNAL: &str = "KEPT_JOURNAL";
/// Kept: inode tables, since nothing vouches for what is unused of them.
pub const KEPT_INODE_TABLE: &str = "KEPT_INODE_TABLE";
/// Kept: gaps between partitions, since something may own them.
pub const KEPT_GAP: &str = "KEPT_GAP";
