//! Work on files of this machine, by the engine.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use imageops_image::format::Format;
use imageops_image::storage::FileStorage;
use imageops_image::{CancelToken, Control};

use crate::args::FormatName;
use crate::exit::Failure;
use crate::interrupt::{Interrupts, wind_up};
use crate::progress::Bar;

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Raw => Self::Raw,
            FormatName::Qcow2 => Self::Qcow2,
        }
    }
}

/// Opens an image file. Only regular files: opening a pipe would wait for its writer.
pub(crate) fn open(path: &Path) -> Result<Arc<FileStorage>, Failure> {
    let failed = |error| Failure::io(path.display(), &error);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Failure::new(format!("{}: is {kind}", path.display())).advise("name an image file"));
    }
    let file = File::open(path).map_err(failed)?;
    Ok(Arc::new(FileStorage::new(file).map_err(failed)?))
}

/// Runs an operation of the engine beside the reactor, with its progress drawn. An interruption cancels it and waits
/// until it has let go of its files.
pub(crate) async fn run<T, E>(
    work: impl FnOnce(&Control) -> Result<T, E> + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    E: Into<Failure> + Send + 'static,
{
    let bar = Bar::new();
    let cancel = CancelToken::default();
    let drawn = bar.clone();
    let control = Control::new(move |progress| drawn.show_engine(progress), cancel.clone());
    // From before there is anything that must not be cut off.
    let mut interrupts = Interrupts::listen();
    let mut task = tokio::task::spawn_blocking(move || work(&control));
    let done = tokio::select! {
        done = &mut task => done,
        () = interrupts.next() => {
            cancel.cancel();
            wind_up(task).await
        }
    };
    bar.clear();
    done.map_err(|_| Failure::new("the operation ended with an internal error"))?.map_err(Into::into)
}
