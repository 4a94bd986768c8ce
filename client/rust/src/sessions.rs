//! Images that come in parts: each part an upload, joined by one call.

use std::time::Duration;

use imageops::v1::image_ops_client::ImageOpsClient;
use imageops::v1::{
    AbortSessionRequest, ComposeImageRequest, ComposeImageResponse, ListUploadsRequest, Upload,
    UploadMetadata,
};

use crate::client::{Client, fill_request_id};
use crate::connection::Connection;
use crate::error::Result;

/// How long joining may take: a whole image is written, and read once more.
const COMPOSE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

impl Client {
    /// Makes one image of the parts of `metadata.session`.
    pub async fn compose_image(&self, mut metadata: UploadMetadata) -> Result<ComposeImageResponse> {
        // The same id again answers the same image, when the first answer was lost.
        fill_request_id(&mut metadata.request_id);
        let request = ComposeImageRequest { metadata: Some(metadata) };
        let compose = async |mut stub: ImageOpsClient<Connection>, request| stub.compose_image(request).await;
        self.call_within(COMPOSE_TIMEOUT, request, compose).await
    }

    /// The stored parts of a session, by their number.
    pub async fn list_parts(&self, session: &str) -> Result<Vec<Upload>> {
        let request = ListUploadsRequest { session: session.to_owned(), ..ListUploadsRequest::default() };
        Ok(self.list_uploads(request).await?.uploads)
    }

    /// Gives all parts of a session up and tells how many there were.
    pub async fn abort_session(&self, session: &str) -> Result<u32> {
        let request = AbortSessionRequest { session: session.to_owned() };
        let answer = self.call(request, async |mut stub, request| stub.abort_session(request).await).await?;
        Ok(answer.parts)
    }
}
