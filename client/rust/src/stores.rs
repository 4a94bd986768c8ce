//! The places where bytes lie.

use imageops::v1::stores_client::StoresClient;
use imageops::v1::{
    DrainStoreRequest, GetStoreRequest, Job, ListStoresRequest, RegisterStoreRequest, RemoveStoreRequest,
    ScrubStoreRequest, Store, UpdateStoreRequest,
};

use crate::client::{Client, NO_JOB};
use crate::connection::Connection;
use crate::error::{Error, Result};

const NO_STORE: Error = Error::Protocol("no store in the answer");

impl Client {
    /// All stores, highest weight first.
    pub async fn list_stores(&self) -> Result<Vec<Store>> {
        let list = async |mut stub: StoresClient<Connection>, request| stub.list_stores(request).await;
        Ok(self.call_stores(ListStoresRequest {}, list).await?.stores)
    }

    /// What is known of a store, by `stores/{uuid}` or its display name.
    pub async fn get_store(&self, name: &str) -> Result<Store> {
        let request = GetStoreRequest { name: name.to_owned() };
        let answer =
            self.call_stores(request, async |mut stub, request| stub.get_store(request).await).await?;
        answer.store.ok_or(NO_STORE)
    }

    /// Adds a store and answers with it.
    pub async fn register_store(&self, store: Store) -> Result<Store> {
        let request = RegisterStoreRequest { store: Some(store) };
        let answer =
            self.call_stores(request, async |mut stub, request| stub.register_store(request).await).await?;
        answer.store.ok_or(NO_STORE)
    }

    /// Changes what was decided about a store and answers with it as it then is.
    ///
    /// With an etag a change whose answer was lost is told as stale when it is made again.
    pub async fn update_store(&self, request: UpdateStoreRequest) -> Result<Store> {
        let answer =
            self.call_stores(request, async |mut stub, request| stub.update_store(request).await).await?;
        answer.store.ok_or(NO_STORE)
    }

    /// Forgets a store that holds no image.
    pub async fn remove_store(&self, name: &str) -> Result<()> {
        let request = RemoveStoreRequest { name: name.to_owned() };
        self.call_stores(request, async |mut stub, request| stub.remove_store(request).await).await.map(drop)
    }

    /// Starts to move all images out of a store and answers with the job.
    pub async fn drain_store(&self, name: &str) -> Result<Job> {
        let request = DrainStoreRequest { name: name.to_owned() };
        let answer =
            self.call_stores(request, async |mut stub, request| stub.drain_store(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Starts to compare all bytes of a store with their digests and answers with the job.
    pub async fn scrub_store(&self, name: &str) -> Result<Job> {
        let request = ScrubStoreRequest { name: name.to_owned() };
        let answer =
            self.call_stores(request, async |mut stub, request| stub.scrub_store(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }
}
