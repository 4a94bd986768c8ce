//! `imageops upload`.

use std::sync::atomic::{AtomicBool, Ordering};

use imageops::v1::Archive;
use imageops_client::{Client, UploadOptions};
use tokio::fs::File;
use uuid::Uuid;

use crate::args::{Global, UploadArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, print, print_json, size_exact};
use crate::progress::Bar;
use crate::server;

/// Uploads a file and prints the image that it became.
pub(crate) async fn run(global: &Global, arguments: &UploadArgs) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    let id = match &arguments.resume {
        Some(upload) => resumable(&client, upload).await?,
        None => Uuid::new_v4(),
    };
    let path = &arguments.file;
    let failed = |error| Failure::io(path.display(), &error);
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(
            Failure::new(format!("{}: not a regular file", path.display())).advise("name an image file")
        );
    }
    let mut file = File::open(path).await.map_err(failed)?;
    // Reads of tokio's files are cut into pieces of this size, each a trip to another thread.
    file.set_max_buf_size(1 << 20);
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let options = UploadOptions {
        display_name: arguments.name.clone().or(file_name).unwrap_or_default(),
        description: arguments.description.clone(),
        labels: arguments.label.iter().cloned().collect(),
        properties: arguments.property.iter().cloned().collect(),
        tags: arguments.tag.clone(),
        archive: if arguments.zip { Archive::Zip } else { Archive::Unspecified },
        store: arguments.store.clone(),
        id: Some(id),
        sha256: arguments.sha256,
        ..UploadOptions::default()
    };
    let (bar, has_begun) = (Bar::new(), AtomicBool::new(arguments.resume.is_some()));
    let uploading = client.upload(&mut file, &options, |progress| {
        has_begun.fetch_or(progress.done_bytes > 0, Ordering::Relaxed);
        bar.show_transfer("uploading", progress);
    });
    let uploaded = server::call(uploading).await;
    bar.clear();
    let image = match uploaded {
        Ok(uploaded) => uploaded.image,
        Err(failure) if has_begun.into_inner() => return Err(with_way_back(&client, id, failure).await),
        Err(failure) => return Err(failure),
    };
    match global.output {
        Form::Json => print_json(&image)?,
        Form::Table => {
            let mut facts = Facts::default();
            facts.add("image", &image.name);
            facts.add("name", &image.display_name);
            facts.add("size", size_exact(image.size_bytes));
            if let Some(digests) = &image.digests {
                facts.add("md5", &digests.md5);
                facts.add("sha256", &digests.sha256);
            }
            print(&facts.render())?;
        }
    }
    Ok(Exit::Success)
}

/// The id of an upload that is to go on. It must be there: a mistyped one would start anew.
async fn resumable(client: &Client, upload: &str) -> Result<Uuid, Failure> {
    let id = upload.strip_prefix("uploads/").unwrap_or(upload);
    let id = Uuid::try_parse(id)
        .map_err(|_| Failure::new(format!("--resume {upload}: not an upload (uploads/ID)")))?;
    server::call(client.get_upload(&format!("uploads/{id}"))).await?;
    Ok(id)
}

/// Tells how to go on when the server still holds what came.
async fn with_way_back(client: &Client, id: Uuid, failure: Failure) -> Failure {
    let name = format!("uploads/{id}");
    let asked = tokio::time::timeout(std::time::Duration::from_secs(2), client.get_upload(&name)).await;
    // An unreachable server may hold it as well.
    let open = match asked {
        Ok(Ok(upload)) => upload.state() == imageops::v1::UploadState::Open,
        Ok(Err(error)) => error.is_transport(),
        Err(_) => true,
    };
    if !open {
        return failure;
    }
    let message = format!("{}; the same command with --resume {name} goes on", failure.message);
    failure.say(message)
}
