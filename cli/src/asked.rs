//! What is asked of a compression at a server, and what a job says of it.

use imageops::v1;
use imageops_image::compress::Level;
use imageops_image::guest::ExtraGains;

use crate::args::{CompressArgs, CompressionName, RecompressName, WindowName};
use crate::exit::Failure;

/// The request for the choices of the command line; where the output goes is not in it.
pub(crate) fn request(arguments: &CompressArgs, source: v1::Source) -> Result<v1::CompressRequest, Failure> {
    for (set, flag) in [
        (arguments.threads.is_some(), "--threads"),
        (arguments.no_verify, "--no-verify"),
        (arguments.format.is_some(), "--format"),
    ] {
        if set {
            return Err(Failure::new(format!("{flag} is for local files: the server decides it")));
        }
    }
    let (level, named_level) = level(arguments.level);
    Ok(v1::CompressRequest {
        source: Some(source),
        compression: match arguments.compression {
            CompressionName::Zlib => v1::Compression::Zlib.into(),
            CompressionName::Zstd => v1::Compression::Zstd.into(),
        },
        level,
        named_level: named_level.into(),
        window: match arguments.window {
            WindowName::Full => v1::CompressionWindow::Full.into(),
            WindowName::Narrow => v1::CompressionWindow::Narrow.into(),
        },
        recompress: match arguments.recompress {
            RecompressName::Auto => v1::Recompress::Auto.into(),
            RecompressName::Always => v1::Recompress::Always.into(),
        },
        share_identical: arguments.share_identical,
        keep_free_space: arguments.keep_free_space,
        extra_gains: extra(arguments.extra.gains()),
        ..v1::CompressRequest::default()
    })
}

fn level(level: Level) -> (Option<u32>, v1::CompressionLevel) {
    match level {
        Level::Number(number) => (Some(number.into()), v1::CompressionLevel::Unspecified),
        Level::Fast => (None, v1::CompressionLevel::Fast),
        Level::Default => (None, v1::CompressionLevel::Default),
        Level::Small => (None, v1::CompressionLevel::Small),
        Level::Smallest => (None, v1::CompressionLevel::Smallest),
    }
}

fn extra(gains: ExtraGains) -> Vec<i32> {
    let gains = [
        (gains.journals, v1::ExtraGain::Journals),
        (gains.inode_tables, v1::ExtraGain::InodeTables),
        (gains.gaps, v1::ExtraGain::Gaps),
    ];
    gains.into_iter().filter(|(set, _)| *set).map(|(_, gain)| gain.into()).collect()
}

/// The same choices for an estimate.
pub(crate) fn estimate(request: v1::CompressRequest) -> v1::EstimateCompressionRequest {
    v1::EstimateCompressionRequest {
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
    }
}

/// Whether a job was asked to drop more than free space: nobody else needs to know that it is 0.
pub(crate) fn has_extra(job: &v1::Job) -> bool {
    job.compression.as_ref().is_some_and(|settings| !settings.extra_gains.is_empty())
}

/// How a job compresses, on one line: what is always said, and what is not the default.
pub(crate) fn line(settings: &v1::CompressionSettings) -> String {
    let coder = match settings.compression() {
        v1::Compression::Zstd => "zstd",
        v1::Compression::Zlib | v1::Compression::Unspecified => "zlib",
    };
    let mut line = format!("{coder}, level {}", settings.level);
    match settings.named_level() {
        v1::CompressionLevel::Unspecified => {}
        v1::CompressionLevel::Fast => line += " (fast)",
        v1::CompressionLevel::Default => line += " (default)",
        v1::CompressionLevel::Small => line += " (small)",
        v1::CompressionLevel::Smallest => line += " (smallest)",
    }
    let marks = [
        (settings.window() == v1::CompressionWindow::Narrow, "window of 4 KiB"),
        (settings.recompress() == v1::Recompress::Always, "all packed anew"),
        (settings.share_identical, "equal clusters once"),
        (settings.keep_free_space, "free space kept"),
    ];
    for (_, mark) in marks.iter().filter(|(set, _)| *set) {
        line += ", ";
        line += mark;
    }
    let extra: Vec<_> = settings.extra_gains().filter_map(extra_name).collect();
    if !extra.is_empty() {
        line += &format!(", {} dropped", extra.join(" and "));
    }
    line
}

fn extra_name(gain: v1::ExtraGain) -> Option<&'static str> {
    match gain {
        v1::ExtraGain::Unspecified => None,
        v1::ExtraGain::Journals => Some("journals"),
        v1::ExtraGain::InodeTables => Some("inode tables"),
        v1::ExtraGain::Gaps => Some("gaps"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_not_the_default() {
        let settings = v1::CompressionSettings {
            compression: v1::Compression::Zlib.into(),
            level: 4,
            named_level: Some(v1::CompressionLevel::Default.into()),
            ..v1::CompressionSettings::default()
        };
        assert_eq!(line(&settings), "zlib, level 4 (default)");
        let extra = v1::CompressionSettings { extra_gains: vec![1, 2], ..settings.clone() };
        assert_eq!(line(&extra), "zlib, level 4 (default), journals and inode tables dropped");
        let settings = v1::CompressionSettings {
            level: 9,
            named_level: None,
            window: v1::CompressionWindow::Narrow.into(),
            recompress: v1::Recompress::Always.into(),
            share_identical: true,
            ..settings
        };
        assert_eq!(line(&settings), "zlib, level 9, window of 4 KiB, all packed anew, equal clusters once");
    }
}
