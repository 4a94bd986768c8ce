//! Uploads in parts that were begun and not completed.
//!
//! Their parts take room that no list shows, and not every server lists such uploads. So each has an object of its own
//! that tells of it, from before the first part until it is completed or aborted.

use std::time::SystemTime;

use futures::TryStreamExt as _;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use uuid::Uuid;

use super::client::Client;
use super::{INCOMPLETE, blob_path};
use crate::{Error, Result, check_key};

const TEXT_BYTES_MAX: u64 = 4096;

/// An upload that has begun.
#[derive(Debug)]
pub(super) struct Incomplete {
    pub(super) blob: Path,
    pub(super) upload_id: String,
    note: Path,
}

impl Incomplete {
    /// Begins an upload and writes down that it was begun.
    pub(super) fn begin(client: &Client, blob: &str) -> Result<Self> {
        let path = blob_path(client, blob);
        let upload_id = client.run(client.objects.create_multipart(&path))?;
        let note = client.path(&format!("{INCOMPLETE}/{}", Uuid::new_v4()));
        let incomplete = Self { blob: path, upload_id, note };
        let text = format!("{blob}\n{}\n", incomplete.upload_id);
        match client.run(client.objects.put(&incomplete.note, text.into())) {
            Ok(_) => Ok(incomplete),
            Err(error) => {
                incomplete.abort(client);
                Err(error)
            }
        }
    }

    /// It is completed. A note that cannot be removed now the sweep removes.
    pub(super) fn completed(self, client: &Client) {
        let _ = client.run(client.objects.delete(&self.note));
    }

    /// Gives the room of its parts back, now or with the next sweep.
    pub(super) fn abort(&self, client: &Client) {
        let _ = self.try_abort(client);
    }

    fn try_abort(&self, client: &Client) -> Result<()> {
        match client.run(client.objects.abort_multipart(&self.blob, &self.upload_id)) {
            Ok(()) | Err(Error::NotFound) => {}
            // Some servers refuse to abort what they do not know: there is nothing left of it once the blob is there.
            Err(error) => client.run(client.objects.head(&self.blob)).map(drop).map_err(|_| error)?,
        }
        match client.run(client.objects.delete(&self.note)) {
            Ok(()) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Aborts the uploads that were begun before a moment; how many.
pub(super) fn sweep(client: &Client, before: SystemTime) -> Result<u64> {
    let notes: Vec<_> = client.run(client.objects.list(Some(&client.path(INCOMPLETE))).try_collect())?;
    let mut swept = 0;
    for note in notes {
        if SystemTime::from(note.last_modified) >= before || note.size > TEXT_BYTES_MAX {
            continue;
        }
        let text = match client.run(async { client.objects.get(&note.location).await?.bytes().await }) {
            Ok(text) => text,
            Err(Error::NotFound) => continue,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let (Some(blob), Some(upload_id)) = (lines.next(), lines.next()) else { continue };
        if check_key(blob).is_err() {
            continue;
        }
        let (blob, upload_id) = (blob_path(client, blob), upload_id.to_owned());
        Incomplete { blob, upload_id, note: note.location }.try_abort(client)?;
        swept += 1;
    }
    Ok(swept)
}
