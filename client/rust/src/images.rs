//! The records of stored images.

use imageops::v1::{
    DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, ListImagesResponse, PurgeImageRequest,
    RestoreImageRequest, UpdateImageRequest,
};

use crate::client::Client;
use crate::error::{Error, Result};

const NO_IMAGE: Error = Error::Protocol("no image in the answer");

impl Client {
    /// What is known of an image.
    pub async fn get_image(&self, name: &str) -> Result<Image> {
        let request = GetImageRequest { name: name.to_owned() };
        let answer =
            self.call_images(request, async |mut stub, request| stub.get_image(request).await).await?;
        answer.image.ok_or(NO_IMAGE)
    }

    /// One page of images.
    pub async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse> {
        self.call_images(request, async |mut stub, request| stub.list_images(request).await).await
    }

    /// Changes what people say of an image and answers with it as it then is.
    ///
    /// With an etag a change whose answer was lost is told as stale when it is made again.
    pub async fn update_image(&self, request: UpdateImageRequest) -> Result<Image> {
        let answer =
            self.call_images(request, async |mut stub, request| stub.update_image(request).await).await?;
        answer.image.ok_or(NO_IMAGE)
    }

    /// Puts an image into the trash and answers with it as it lies there. With an empty etag any revision.
    pub async fn delete_image(&self, name: &str, etag: &str) -> Result<Image> {
        let request = DeleteImageRequest { name: name.to_owned(), etag: etag.to_owned(), purge: false };
        let answer =
            self.call_images(request, async |mut stub, request| stub.delete_image(request).await).await?;
        answer.image.ok_or(NO_IMAGE)
    }

    /// Takes an image out of the trash and answers with it as it then is.
    pub async fn restore_image(&self, name: &str) -> Result<Image> {
        let request = RestoreImageRequest { name: name.to_owned() };
        let answer =
            self.call_images(request, async |mut stub, request| stub.restore_image(request).await).await?;
        answer.image.ok_or(NO_IMAGE)
    }

    /// Removes an image that lies in the trash, for good. With an empty etag any revision.
    pub async fn purge_image(&self, name: &str, etag: &str) -> Result<()> {
        let request = PurgeImageRequest { name: name.to_owned(), etag: etag.to_owned() };
        self.call_images(request, async |mut stub, request| stub.purge_image(request).await).await.map(drop)
    }
}
