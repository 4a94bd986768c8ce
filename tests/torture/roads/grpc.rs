//! UploadImage, through the Rust client.

use imageops_client::{Client, UploadOptions};
use tonic::Code;

use super::{Setback, Target};
use crate::ledger::Entry;

/// One attempt, which begins the upload or goes on with it.
pub async fn upload(target: Target, entry: Entry) -> Result<String, Setback> {
    let client = target.client();
    check_offset(&client, &entry).await?;
    send(&client, &entry).await
}

/// Sends all that the server does not have, and commits.
pub async fn send(client: &Client, entry: &Entry) -> Result<String, Setback> {
    let options = UploadOptions {
        id: Some(entry.id),
        display_name: "gRPC".to_owned(),
        expected_digests: entry.digests.clone(),
        ..UploadOptions::default()
    };
    let uploaded = client.upload(&mut entry.content.reader(0, &entry.sent_bytes), &options, |_| {}).await?;
    Ok(uploaded.image.name)
}

/// the server holds no more than was sent.
pub async fn check_offset(client: &Client, entry: &Entry) -> Result<(), Setback> {
    match client.get_upload(&format!("uploads/{}", entry.id)).await {
        Ok(upload) => entry.check_offset(upload.durable_bytes),
        Err(error) if error.code() == Code::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
