//! Between the contract and the rest: every conversion from and to `imageops.v1`, and nothing else.

mod changes;
mod compression;
mod facts;
mod images;
mod jobs;
mod keys;
mod requests;
mod results;
mod stores;
mod usage;
mod work;

pub(crate) use changes::{
    read_etag, read_formats, read_image_change, read_image_order, read_image_states, read_record,
    read_upload_details,
};
pub(crate) use compression::{read_compression, read_conversion, read_output_format, request_of_estimate};
pub(crate) use images::{image, inspection, upload};
pub(crate) use jobs::job;
pub(crate) use keys::{key, read_expire_time, read_scopes, read_sha256};
pub(crate) use requests::{
    read_digest_choice, read_duration, read_format, read_job_kinds, read_job_states, read_promise,
    read_source, read_upload_states,
};
pub(crate) use stores::{read_store, read_store_change, read_store_state, store};
pub(crate) use usage::usage;
pub(crate) use work::work;

use imageops_model::Micros;
use pbjson_types::Timestamp;

/// A moment as the contract has it.
fn timestamp(moment: Micros) -> Timestamp {
    let nanos = moment.0.rem_euclid(1_000_000) * 1000;
    Timestamp { seconds: moment.0.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_the_epoch_have_positive_fractions() {
        assert_eq!(timestamp(Micros(-1)), Timestamp { seconds: -1, nanos: 999_999_000 });
        assert_eq!(timestamp(Micros(1_500_000)), Timestamp { seconds: 1, nanos: 500_000_000 });
    }
}
