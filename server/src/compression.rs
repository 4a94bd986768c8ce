//! The choices of a compression in the engine's terms.

use imageops_image::compress::{CompressOptions, Compression, Level, Recompress, Window};
use imageops_image::guest::ExtraGains;
use imageops_model::{CompressionChoice, Effort, ExtraChoice, NamedLevel};

/// The engine's options for what was asked for; threads and limits are its defaults. Every output of the service is read
/// back before it gets its name, and no input may make one larger than the disk it promises, whatever its tables say
/// (SEC-12).
pub(crate) fn engine_options(choice: &CompressionChoice) -> CompressOptions {
    let ExtraChoice { journals, inode_tables, gaps } = choice.extra;
    CompressOptions {
        compression: if choice.zstd { Compression::Zstd } else { Compression::Zlib },
        level: match choice.level {
            Some(Effort::Number(number)) => Level::Number(number),
            Some(Effort::Named(NamedLevel::Fast)) => Level::Fast,
            Some(Effort::Named(NamedLevel::Default)) | None => Level::Default,
            Some(Effort::Named(NamedLevel::Small)) => Level::Small,
            Some(Effort::Named(NamedLevel::Smallest)) => Level::Smallest,
        },
        window: if choice.narrow_window { Window::Narrow } else { Window::Full },
        recompress: if choice.recompress_always { Recompress::Always } else { Recompress::Auto },
        share_identical: choice.share_identical,
        drop_free: !choice.keep_free_space,
        extra: ExtraGains { journals, inode_tables, gaps },
        verify: true,
        output_limit_bytes: None,
        ..CompressOptions::default()
    }
}
