//! Who may do what.

use imageops::v1::{
    CreateKeyRequest, CreateKeyResponse, GetKeyRequest, Key, ListKeysRequest, ListKeysResponse,
    RevokeKeyRequest,
};

use crate::client::{Client, fill_request_id};
use crate::error::{Error, Result};

const NO_KEY: Error = Error::Protocol("no key in the answer");

impl Client {
    /// Makes a key and answers with it and its secret, which nobody can ask for again.
    ///
    /// When the answer of an attempt was lost, the next one fails with `KEY_EXISTS`: revoke the key of the request's id and
    /// make another.
    pub async fn create_key(&self, mut request: CreateKeyRequest) -> Result<CreateKeyResponse> {
        fill_request_id(&mut request.request_id);
        self.call_keys(request, async |mut stub, request| stub.create_key(request).await).await
    }

    /// What is known of a key.
    pub async fn get_key(&self, name: &str) -> Result<Key> {
        let request = GetKeyRequest { name: name.to_owned() };
        let answer = self.call_keys(request, async |mut stub, request| stub.get_key(request).await).await?;
        answer.key.ok_or(NO_KEY)
    }

    /// One page of keys, newest first, revoked and expired ones too.
    pub async fn list_keys(&self, request: ListKeysRequest) -> Result<ListKeysResponse> {
        self.call_keys(request, async |mut stub, request| stub.list_keys(request).await).await
    }

    /// Revokes a key and answers with it as it then is.
    pub async fn revoke_key(&self, name: &str) -> Result<Key> {
        let request = RevokeKeyRequest { name: name.to_owned() };
        let answer =
            self.call_keys(request, async |mut stub, request| stub.revoke_key(request).await).await?;
        answer.key.ok_or(NO_KEY)
    }
}
