//! `imageops download`.

use std::path::Path;
use std::time::Instant;

use imageops::v1::{Image, ImageFormat};
use imageops_client::{Client, Error as ClientError};
use tokio::io::AsyncWrite;

use crate::args::{DownloadArgs, FormatName, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, print, print_json, rate, size_exact, span};
use crate::progress::Bar;
use crate::server;
use crate::target::Target;

/// Downloads an image into a file that appears when all of it is there.
pub(crate) async fn run(global: &Global, arguments: &DownloadArgs) -> Result<Exit, Failure> {
    let client = server::connect_required(global)?;
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
    let downloaded = fetch(&client, &image, format, &mut file).await?;
    // Flushing a large file takes long: not on the reactor.
    server::call(async {
        let published = tokio::task::spawn_blocking(move || target.publish()).await;
        published.unwrap_or_else(|_| Err(Failure::new("the file could not be given its name")))
    })
    .await?;
    report(global, &downloaded, start)?;
    Ok(Exit::Success)
}

async fn fetch<W: AsyncWrite + Unpin>(
    client: &Client,
    image: &str,
    format: ImageFormat,
    target: &mut W,
) -> Result<Image, Failure> {
    let bar = Bar::new();
    let progress = |progress| bar.show_transfer("downloading", progress);
    let downloading = client.download_in(image, format, 0, target, progress);
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
