//! What a check came to, in the numbers and texts that both legacy services have.

use imageops::v1::{CheckOutcome, CheckResult, ImageFormat, Inspection};
use serde_json::{Map, Value, json};

use super::literals;

/// `checkResult`, in the numbers of the legacy service: `qemu-img check`'s exit status and some of its own.
mod check_result {
    pub(super) const CONSISTENT: u32 = 0;
    pub(super) const NOT_COMPLETED: u32 = 1;
    pub(super) const CORRUPT: u32 = 2;
    pub(super) const LEAKS: u32 = 3;
    pub(super) const RUNNING: u32 = 4;
    pub(super) const NOT_SUPPORTED: u32 = 63;
    pub(super) const NOT_READABLE: u32 = 99;
    pub(super) const TIMEOUT: u32 = 100;
}

/// Reason of work that took too long.
pub(super) const TIMEOUT: &str = "TIMEOUT";

/// How a check is, or how it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    status: u32,
    message: &'static str,
    result: u32,
}

impl Verdict {
    /// It has not ended.
    pub(super) const RUNNING: Self = Self::new(4, literals::CHECK_RUNNING, check_result::RUNNING);
    const NOT_READABLE: Self = Self::new(3, literals::CHECK_FAILED, check_result::NOT_READABLE);

    const fn new(status: u32, message: &'static str, result: u32) -> Self {
        Self { status, message, result }
    }

    /// It found this.
    pub(super) fn of(result: &CheckResult) -> Self {
        match result.outcome() {
            CheckOutcome::Consistent => Self::new(0, literals::CHECK_CONSISTENT, check_result::CONSISTENT),
            CheckOutcome::Corrupt => Self::new(1, literals::CHECK_CORRUPT, check_result::CORRUPT),
            CheckOutcome::Leaks => Self::new(2, literals::CHECK_LEAKS, check_result::LEAKS),
            CheckOutcome::NotSupported => {
                Self::new(5, literals::CHECK_NOT_SUPPORTED, check_result::NOT_SUPPORTED)
            }
            CheckOutcome::Failed if result.figures.is_some() => {
                Self::new(3, literals::CHECK_FAILED, check_result::NOT_COMPLETED)
            }
            CheckOutcome::Failed | CheckOutcome::Unspecified => Self::NOT_READABLE,
        }
    }

    /// It ended for this reason without a result.
    pub(super) fn of_failure(reason: &str) -> Self {
        match reason {
            TIMEOUT => Self::new(6, literals::CHECK_TIMEOUT, check_result::TIMEOUT),
            _ => Self::NOT_READABLE,
        }
    }

    /// The object that both services answer.
    pub(super) fn answer(self, checksum: Value, image: Value) -> Value {
        let info = json!({"checkResult": self.result, "checksum": checksum, "imageInfo": image});
        json!({"checkInfo": info, "msg": self.message, "status": self.status})
    }
}

/// The members that every readable image has.
pub(super) fn sizes(inspection: Option<&Inspection>) -> Map<String, Value> {
    let mut info = Map::new();
    let Some(inspection) = inspection else { return info };
    // Of formats that are only recognised the guest's size is not known; the member must be there all the same.
    let virtual_size = inspection.virtual_size_bytes.unwrap_or(inspection.file_size_bytes);
    info.insert("disk_size".to_owned(), inspection.allocated_bytes.to_string().into());
    info.insert("format".to_owned(), format_name(inspection.format()).into());
    info.insert("virtual_size".to_owned(), gibibytes(virtual_size).into());
    info
}

/// The format's name in `qemu-img info`.
pub(super) fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw | ImageFormat::Iso | ImageFormat::Other | ImageFormat::Unspecified => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Qcow => "qcow",
        ImageFormat::Qed => "qed",
        ImageFormat::Vmdk => "vmdk",
        ImageFormat::Vhd => "vpc",
        ImageFormat::Vhdx => "vhdx",
        ImageFormat::Vdi => "vdi",
        ImageFormat::Parallels => "parallels",
        ImageFormat::Luks => "luks",
    }
}

/// GiB with three decimals, ties to even, computed exactly: in binary fractions 192 MiB would depend on luck.
fn gibibytes(bytes: u64) -> f64 {
    const GIBIBYTE_BITS: u32 = 30;
    const HALF: u128 = 1 << (GIBIBYTE_BITS - 1);
    let scaled = u128::from(bytes) * 1000;
    let (whole, rest) = (scaled >> GIBIBYTE_BITS, scaled & ((1 << GIBIBYTE_BITS) - 1));
    let up = rest > HALF || (rest == HALF && whole & 1 == 1);
    // Below 2^45, hence exact as a float; the division then rounds to the float that prints with three decimals.
    (whole + u128::from(up)) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_gibibytes_round_ties_to_even() {
        for (bytes, want) in [
            (0, "0.0"),
            (64 << 20, "0.062"),
            (192 << 20, "0.188"),
            (320 << 20, "0.312"),
            ((64 << 20) + 1, "0.063"),
            ((64 << 20) - 1, "0.062"),
            (65_536, "0.0"),
            (1 << 30, "1.0"),
            (2_361_393_152, "2.199"),
            (u64::MAX, "17179869184.0"),
        ] {
            assert_eq!(json!(gibibytes(bytes)).to_string(), want, "{bytes}");
        }
    }
}
