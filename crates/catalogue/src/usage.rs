//! What a tenant has, and may have.

/// What a tenant may have; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most images, records without bytes and those in the trash counted.
    pub images_max: Option<u64>,
    /// Most bytes of images.
    pub bytes_max: Option<u64>,
}

/// What a tenant has. A limit holds for what is there and what is promised together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images, records without bytes and those in the trash counted, companions not.
    pub images: u64,
    /// Bytes of images as their owner sees them: what two of them share counts twice, cached conversions not at all.
    pub bytes: u64,
    /// Images promised to open uploads and live jobs.
    pub reserved_images: u64,
    /// Bytes promised to open uploads, stored parts and live jobs.
    pub reserved_bytes: u64,
    /// What it may have: its own quota, or the default one.
    pub quota: Quota,
}
