//! How outputs are compressed: what clients ask for, and what a job tells of it.

use imageops::v1;
use imageops_image::format::Format;
use imageops_image::reason;
use imageops_model::{CompressionChoice, Effort, ExtraChoice, NamedLevel};

use crate::compression::engine_options;
use crate::failure::{Failure, Result};

/// The request of a compression with the choices of an estimate.
pub(crate) fn request_of_estimate(request: v1::EstimateCompressionRequest) -> v1::CompressRequest {
    v1::CompressRequest {
        source: request.source,
        compression: request.compression,
        level: request.level,
        keep_free_space: request.keep_free_space,
        request_id: request.request_id,
        validate_only: request.validate_only,
        named_level: request.named_level,
        window: request.window,
        recompress: request.recompress,
        share_identical: request.share_identical,
        extra_gains: request.extra_gains,
        output_file: String::new(),
        output_display_name: String::new(),
        companion: false,
    }
}

/// The choices in a request, refused where the coder does not have them.
pub(crate) fn read_compression(request: &v1::CompressRequest) -> Result<CompressionChoice> {
    let choice = CompressionChoice {
        zstd: read_zstd(request.compression)?,
        level: read_level(request.level, request.named_level)?,
        keep_free_space: request.keep_free_space,
        narrow_window: read_narrow(request.window)?,
        recompress_always: read_always(request.recompress)?,
        share_identical: request.share_identical,
        extra: read_extra(&request.extra_gains, request.keep_free_space)?,
    };
    engine_options(&choice).check().map_err(|error| match error.reason {
        reason::COMPRESSION_LEVEL => Failure::invalid("level", error.message),
        reason::COMPRESSION_WINDOW => Failure::invalid_as(error.reason, "window", error.message),
        _ => error.into(),
    })?;
    Ok(choice)
}

/// The format that a conversion writes, and how its clusters are compressed, refused where that is RAW and has none.
pub(crate) fn read_conversion(request: &v1::ConvertRequest) -> Result<(Format, Option<CompressionChoice>)> {
    let format = read_output_format("format", request.format)?
        .ok_or_else(|| Failure::invalid("format", "must be RAW or QCOW2"))?;
    if format == Format::Qcow2 {
        let choice = read_compression(&v1::CompressRequest {
            compression: request.compression,
            level: request.level,
            keep_free_space: true,
            ..v1::CompressRequest::default()
        })?;
        return Ok((format, Some(choice)));
    }
    if request.compression != 0 {
        return Err(Failure::invalid("compression", "RAW is not compressed; leave it unspecified"));
    }
    if request.level.is_some() {
        return Err(Failure::invalid("level", "RAW is not compressed; leave it unspecified"));
    }
    Ok((format, None))
}

/// A format that can be written; `None`: unspecified.
pub(crate) fn read_output_format(field: &'static str, value: i32) -> Result<Option<Format>> {
    match v1::ImageFormat::try_from(value) {
        Ok(v1::ImageFormat::Unspecified) => Ok(None),
        Ok(v1::ImageFormat::Raw) => Ok(Some(Format::Raw)),
        Ok(v1::ImageFormat::Qcow2) => Ok(Some(Format::Qcow2)),
        _ => Err(Failure::invalid(field, "must be RAW or QCOW2")),
    }
}

fn read_zstd(value: i32) -> Result<bool> {
    match v1::Compression::try_from(value) {
        Ok(v1::Compression::Unspecified | v1::Compression::Zlib) => Ok(false),
        Ok(v1::Compression::Zstd) => Ok(true),
        Err(_) => Err(Failure::invalid("compression", "takes ZLIB and ZSTD")),
    }
}

fn read_level(number: Option<u32>, name: i32) -> Result<Option<Effort>> {
    let name = match v1::CompressionLevel::try_from(name) {
        Ok(v1::CompressionLevel::Unspecified) => None,
        Ok(v1::CompressionLevel::Fast) => Some(NamedLevel::Fast),
        Ok(v1::CompressionLevel::Default) => Some(NamedLevel::Default),
        Ok(v1::CompressionLevel::Small) => Some(NamedLevel::Small),
        Ok(v1::CompressionLevel::Smallest) => Some(NamedLevel::Smallest),
        Err(_) => return Err(Failure::invalid("named_level", "takes FAST, DEFAULT, SMALL and SMALLEST")),
    };
    match (number, name) {
        (Some(_), Some(_)) => Err(Failure::invalid("named_level", "contradicts `level`; set one of both")),
        // A number that does not fit is none that any coder has, as 255.
        (Some(number), None) => Ok(Some(Effort::Number(u8::try_from(number).unwrap_or(u8::MAX)))),
        (None, name) => Ok(name.map(Effort::Named)),
    }
}

fn read_narrow(value: i32) -> Result<bool> {
    match v1::CompressionWindow::try_from(value) {
        Ok(v1::CompressionWindow::Unspecified | v1::CompressionWindow::Full) => Ok(false),
        Ok(v1::CompressionWindow::Narrow) => Ok(true),
        Err(_) => Err(Failure::invalid("window", "takes FULL and NARROW")),
    }
}

fn read_always(value: i32) -> Result<bool> {
    match v1::Recompress::try_from(value) {
        Ok(v1::Recompress::Unspecified | v1::Recompress::Auto) => Ok(false),
        Ok(v1::Recompress::Always) => Ok(true),
        Err(_) => Err(Failure::invalid("recompress", "takes AUTO and ALWAYS")),
    }
}

fn read_extra(gains: &[i32], keep_free_space: bool) -> Result<ExtraChoice> {
    let mut choice = ExtraChoice::default();
    for gain in gains {
        match v1::ExtraGain::try_from(*gain) {
            Ok(v1::ExtraGain::Journals) => choice.journals = true,
            Ok(v1::ExtraGain::InodeTables) => choice.inode_tables = true,
            Ok(v1::ExtraGain::Gaps) => choice.gaps = true,
            Ok(v1::ExtraGain::Unspecified) | Err(_) => {
                return Err(Failure::invalid("extra_gains", "takes JOURNALS, INODE_TABLES and GAPS"));
            }
        }
    }
    if keep_free_space && !gains.is_empty() {
        return Err(Failure::invalid("extra_gains", "contradicts `keep_free_space`; set one of both"));
    }
    Ok(choice)
}

/// What a job tells of the choices: each spelled out.
pub(super) fn settings(choice: &CompressionChoice) -> v1::CompressionSettings {
    let compression = if choice.zstd { v1::Compression::Zstd } else { v1::Compression::Zlib };
    let named_level = match choice.level {
        Some(Effort::Number(_)) => None,
        Some(Effort::Named(NamedLevel::Fast)) => Some(v1::CompressionLevel::Fast),
        Some(Effort::Named(NamedLevel::Default)) | None => Some(v1::CompressionLevel::Default),
        Some(Effort::Named(NamedLevel::Small)) => Some(v1::CompressionLevel::Small),
        Some(Effort::Named(NamedLevel::Smallest)) => Some(v1::CompressionLevel::Smallest),
    };
    let window =
        if choice.narrow_window { v1::CompressionWindow::Narrow } else { v1::CompressionWindow::Full };
    let recompress = if choice.recompress_always { v1::Recompress::Always } else { v1::Recompress::Auto };
    let extra = [
        (choice.extra.journals, v1::ExtraGain::Journals),
        (choice.extra.inode_tables, v1::ExtraGain::InodeTables),
        (choice.extra.gaps, v1::ExtraGain::Gaps),
    ];
    v1::CompressionSettings {
        compression: compression.into(),
        level: engine_options(choice).level_number().into(),
        named_level: named_level.map(i32::from),
        window: window.into(),
        recompress: recompress.into(),
        share_identical: choice.share_identical,
        keep_free_space: choice.keep_free_space,
        extra_gains: extra.into_iter().filter(|(set, _)| *set).map(|(_, gain)| gain.into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::StatusExt as _;

    use super::*;

    fn level(compression: v1::Compression, level: u32) -> v1::CompressRequest {
        v1::CompressRequest { compression: compression.into(), level: Some(level), ..Default::default() }
    }

    fn narrow(request: v1::CompressRequest) -> v1::CompressRequest {
        v1::CompressRequest { window: v1::CompressionWindow::Narrow.into(), ..request }
    }

    #[test]
    fn levels_are_bounded_by_coder_and_window() {
        use v1::Compression::{Zlib, Zstd};
        for (request, settled) in [(level(Zlib, 12), 12), (level(Zstd, 22), 22), (narrow(level(Zlib, 9)), 9)]
        {
            let choice = read_compression(&request).expect("a level that the coder has");
            assert_eq!(settings(&choice).level, settled);
        }
        for request in [
            level(Zlib, 0),
            level(Zlib, 13),
            level(Zlib, 256 + 4),
            level(Zstd, 23),
            level(Zstd, u32::MAX),
            narrow(level(Zlib, 10)),
        ] {
            assert_refused(&request, "INVALID_ARGUMENT", "level");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let all = v1::CompressRequest::default;
        let fast = v1::CompressionLevel::Fast.into();
        for (request, reason, field) in [
            (v1::CompressRequest { compression: 9, ..all() }, "INVALID_ARGUMENT", "compression"),
            (v1::CompressRequest { named_level: 9, ..all() }, "INVALID_ARGUMENT", "named_level"),
            (v1::CompressRequest { window: 9, ..all() }, "INVALID_ARGUMENT", "window"),
            (v1::CompressRequest { recompress: -1, ..all() }, "INVALID_ARGUMENT", "recompress"),
            (
                v1::CompressRequest { level: Some(4), named_level: fast, ..all() },
                "INVALID_ARGUMENT",
                "named_level",
            ),
            (
                narrow(v1::CompressRequest { compression: v1::Compression::Zstd.into(), ..all() }),
                "COMPRESSION_WINDOW",
                "window",
            ),
            (v1::CompressRequest { extra_gains: vec![1, 0], ..all() }, "INVALID_ARGUMENT", "extra_gains"),
            (v1::CompressRequest { extra_gains: vec![9], ..all() }, "INVALID_ARGUMENT", "extra_gains"),
            (
                v1::CompressRequest { extra_gains: vec![1], keep_free_space: true, ..all() },
                "INVALID_ARGUMENT",
                "extra_gains",
            ),
        ] {
            assert_refused(&request, reason, field);
        }
    }

    fn assert_refused(request: &v1::CompressRequest, reason: &str, field: &str) {
        let status = Status::from(read_compression(request).expect_err("nothing that can be done"));
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some(reason), "{request:?}");
        let fields = details.bad_request().map(|bad| bad.field_violations[0].field.as_str());
        assert_eq!(fields, Some(field), "{request:?}");
    }

    #[test]
    fn a_conversion_writes_raw_or_qcow2_and_compresses_one_of_them() {
        let asked =
            |format: v1::ImageFormat| v1::ConvertRequest { format: format.into(), ..Default::default() };
        assert_eq!(read_conversion(&asked(v1::ImageFormat::Raw)), Ok((Format::Raw, None)));
        let request = v1::ConvertRequest { level: Some(3), compression: 2, ..asked(v1::ImageFormat::Qcow2) };
        let (format, choice) = read_conversion(&request).expect("a level that the coder has");
        let choice = choice.expect("clusters are compressed");
        assert_eq!((format, choice.zstd, choice.keep_free_space), (Format::Qcow2, true, true));
        for refused in [
            asked(v1::ImageFormat::Unspecified),
            asked(v1::ImageFormat::Vmdk),
            v1::ConvertRequest { format: 77, ..Default::default() },
            v1::ConvertRequest { level: Some(3), ..asked(v1::ImageFormat::Raw) },
            v1::ConvertRequest { compression: 1, ..asked(v1::ImageFormat::Raw) },
            v1::ConvertRequest { level: Some(99), ..asked(v1::ImageFormat::Qcow2) },
        ] {
            assert!(read_conversion(&refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_job_spells_every_choice_out() {
        let settled =
            |request: &v1::CompressRequest| settings(&read_compression(request).expect("what the coder has"));
        let plain = settled(&v1::CompressRequest::default());
        assert_eq!((plain.compression(), plain.level), (v1::Compression::Zlib, 4));
        assert_eq!(plain.named_level(), v1::CompressionLevel::Default);
        assert_eq!((plain.window(), plain.recompress()), (v1::CompressionWindow::Full, v1::Recompress::Auto));
        assert!(!plain.share_identical && !plain.keep_free_space && plain.extra_gains.is_empty());
        let request = v1::EstimateCompressionRequest {
            compression: v1::Compression::Zlib.into(),
            named_level: v1::CompressionLevel::Smallest.into(),
            window: v1::CompressionWindow::Narrow.into(),
            recompress: v1::Recompress::Always.into(),
            share_identical: true,
            keep_free_space: true,
            ..Default::default()
        };
        let all = settled(&request_of_estimate(request));
        assert_eq!((all.named_level(), all.level), (v1::CompressionLevel::Smallest, 9));
        assert_eq!((all.window(), all.recompress()), (v1::CompressionWindow::Narrow, v1::Recompress::Always));
        assert!(all.share_identical && all.keep_free_space);
        let request = v1::EstimateCompressionRequest { extra_gains: vec![3, 1, 2, 1], ..Default::default() };
        assert_eq!(settled(&request_of_estimate(request)).extra_gains, [1, 2, 3], "each once");
    }
}
