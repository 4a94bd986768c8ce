//! The records of stored images.

use imageops::v1::{
    CopyImageRequest, CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ImageWork,
    ImportImageRequest, Job, ListImagesRequest, ListImagesResponse, PurgeImageRequest, RemoveReplicaRequest,
    RestoreImageRequest, UpdateImageRequest,
};
use uuid::Uuid;

use crate::client::{Client, NO_JOB, fill_request_id};
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

    /// What was last done with an image.
    pub async fn get_image_work(&self, name: &str) -> Result<ImageWork> {
        let request = GetImageRequest { name: name.to_owned() };
        let answer =
            self.call_images(request, async |mut stub, request| stub.get_image(request).await).await?;
        Ok(answer.work.unwrap_or_default())
    }

    /// Makes a record without bytes and answers with it. Without a name one is chosen here, so that a lost answer makes no
    /// second record.
    pub async fn create_image(&self, mut image: Image) -> Result<Image> {
        if image.name.is_empty() {
            image.name = format!("images/{}", Uuid::new_v4());
        }
        let request = CreateImageRequest { image: Some(image) };
        let answer =
            self.call_images(request, async |mut stub, request| stub.create_image(request).await).await?;
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
        self.delete(DeleteImageRequest { name: name.to_owned(), etag: etag.to_owned(), purge: false }).await
    }

    /// Removes an image for good, whatever its state, and answers with it as it was. With an empty etag any revision.
    ///
    /// An image that is gone because an earlier answer was lost is told as not found.
    pub async fn delete_image_for_good(&self, name: &str, etag: &str) -> Result<Image> {
        self.delete(DeleteImageRequest { name: name.to_owned(), etag: etag.to_owned(), purge: true }).await
    }

    async fn delete(&self, request: DeleteImageRequest) -> Result<Image> {
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

    /// Starts a copy of an image's bytes into another store and answers with the job. An empty store: the server chooses.
    pub async fn copy_image(&self, name: &str, store: &str) -> Result<Job> {
        let mut request =
            CopyImageRequest { name: name.to_owned(), store: store.to_owned(), request_id: String::new() };
        fill_request_id(&mut request.request_id);
        let answer =
            self.call_images(request, async |mut stub, request| stub.copy_image(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Starts an import from a URL and answers with the job, whose result names the image.
    pub async fn import_image(&self, mut request: ImportImageRequest) -> Result<Job> {
        fill_request_id(&mut request.request_id);
        let answer =
            self.call_images(request, async |mut stub, request| stub.import_image(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Removes the copy of an image in one store and answers with the image as it then is. With an empty etag any revision.
    pub async fn remove_replica(&self, name: &str, store: &str, etag: &str) -> Result<Image> {
        let request =
            RemoveReplicaRequest { name: name.to_owned(), store: store.to_owned(), etag: etag.to_owned() };
        let answer =
            self.call_images(request, async |mut stub, request| stub.remove_replica(request).await).await?;
        answer.image.ok_or(NO_IMAGE)
    }
}
