//! `imageops download`.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::time::Instant;

use imageops::v1::{Image, ImageFormat};
use imageops_client::{Client, DownloadTarget, Error as ClientError};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use crate::args::{DownloadArgs, FormatName, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, print, print_json, rate, size_exact, span};
use crate::progress::Bar;
use crate::server;
use crate::target::Target;

/// Downloads an image into a file that appears when all of it is there.
pub(crate) async fn run(global: &Global, arguments: &DownloadArgs) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    let name = &arguments.image;
    let image = if name.contains('/') { name.clone() } else { format!("images/{name}") };
    let format = match arguments.format {
        Some(FormatName::Raw) => ImageFormat::Raw,
        Some(FormatName::Qcow2) => ImageFormat::Qcow2,
        None => ImageFormat::Unspecified,
    };
    if arguments.target == Path::new("-") {
        return to_stdout(&client, &image, format).await;
    }
    let start = Instant::now();
    let target = Target::create(&arguments.target, None)?;
    let file = target.file().try_clone().map_err(|error| Failure::io(arguments.target.display(), &error))?;
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(1 << 20);
    let downloaded = fetch(&client, &image, format, &mut Sparse(file)).await?;
    // Flushing a large file takes long: not on the reactor.
    server::call(async {
        let published = tokio::task::spawn_blocking(move || target.publish()).await;
        published.unwrap_or_else(|_| Err(Failure::new("the file could not be given its name")))
    })
    .await?;
    report(global, &downloaded, start)?;
    Ok(Exit::Success)
}

/// A new file, whose holes stay holes.
struct Sparse(tokio::fs::File);

impl DownloadTarget for Sparse {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data).await
    }

    async fn skip(&mut self, length_bytes: u64) -> io::Result<()> {
        // The file has no more than was written: what it is lengthened by is a hole.
        self.0.flush().await?;
        let length = i64::try_from(length_bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let end_bytes = self.0.seek(SeekFrom::Current(length)).await?;
        self.0.set_len(end_bytes).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}

async fn fetch(
    client: &Client,
    image: &str,
    format: ImageFormat,
    target: &mut Sparse,
) -> Result<Image, Failure> {
    let bar = Bar::new();
    let progress = |progress| bar.show_transfer("downloading", progress);
    let downloading = client.download_to(image, format, 0, target, progress);
    let image = server::call(downloading).await;
    bar.clear();
    image
}

/// Nothing but the image goes to stdout. A reader who has seen enough is no error.
async fn to_stdout(client: &Client, image: &str, format: ImageFormat) -> Result<Exit, Failure> {
    let bar = Bar::new();
    let mut stdout = tokio::io::stdout();
    let downloading = async {
        let progress = |progress| bar.show_transfer("downloading", progress);
        match client.download_in(image, format, 0, &mut stdout, progress).await {
            Err(ClientError::Target(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map(drop),
        }
    };
    let done = server::call(downloading).await;
    bar.clear();
    done.map(|()| Exit::Success)
}

fn report(global: &Global, image: &Image, start: Instant) -> Result<(), Failure> {
    if global.output == Form::Json {
        return print_json(image);
    }
    let elapsed = start.elapsed();
    let mut facts = Facts::default();
    facts.add("image", &image.name);
    facts.add("size", size_exact(image.size_bytes));
    facts.add_some("sha256", image.digests.as_ref().map(|digests| &digests.sha256));
    facts.add(
        "time",
        [Some(span(elapsed)), rate(image.size_bytes, elapsed)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
    );
    print(&facts.render())
}
