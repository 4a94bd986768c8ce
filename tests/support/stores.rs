//! Stores in the tests: how they are asked for, and what lies in them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use imageops::v1::stores_client::StoresClient;
use imageops::v1::{
    CopyImageRequest, DrainStoreRequest, GetStoreRequest, Image, Job, ReplicaState, ScrubStoreRequest, Store,
};
use imageops_client::{Client, ConnectOptions, Connection};

use super::Service;
use super::process::Setup;

/// The store in the data directory.
pub const DEFAULT: &str = "default";

/// Starts a server with directory stores of these names beside the default one. New bytes go into the first of them.
pub fn start_with_stores(names: &[&str], more: &[&str]) -> Service {
    Service::start_changed(|setup| {
        for (index, name) in names.iter().enumerate() {
            add_store(setup, name, (names.len() - index) as i32);
        }
        setup.arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    })
}

/// Has a server start with one more directory store; the default one has the weight -1.
pub fn add_store(setup: &mut Setup, name: &str, weight: i32) {
    let store = format!("{name}={}?weight={weight}", directory(&setup.data_dir, name).display());
    setup.arguments.extend(["--store".to_owned(), store]);
}

fn directory(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.parent().expect("a directory of the test").join(format!("store-{name}"))
}

/// Where the bytes of a store of [`add_store`] lie.
pub fn blobs_of(service: &Service, name: &str) -> PathBuf {
    directory(service.data_dir(), name).join("blobs")
}

/// A client of the stores.
pub fn stores(service: &Service) -> StoresClient<Connection> {
    let uri = format!("http://{}", service.grpc());
    let connection = Connection::connect_lazy(&uri, ConnectOptions::default());
    StoresClient::new(connection.expect("the address of the server"))
}

/// A store by its name.
pub async fn store(service: &Service, name: &str) -> Store {
    let answer = stores(service).get_store(GetStoreRequest { name: name.to_owned() }).await;
    answer.expect("a store").into_inner().store.expect("a store in the answer")
}

/// The states of the copies of an image, by the names of their stores.
pub async fn copies(service: &Service, image: &Image) -> Vec<(String, ReplicaState)> {
    let mut copies = Vec::new();
    for replica in &image.replicas {
        copies.push((store(service, &replica.store).await.display_name, replica.state()));
    }
    copies.sort_by(|one, other| one.0.cmp(&other.0));
    copies
}

/// Starts a copy of an image into a store.
pub async fn copy(client: &Client, image: &str, store: &str) -> Job {
    let request =
        CopyImageRequest { name: image.to_owned(), store: store.to_owned(), ..CopyImageRequest::default() };
    let answer = client.images().copy_image(request).await.expect("a copy that can be made");
    answer.into_inner().job.expect("a job")
}

/// Starts a scrub.
pub async fn scrub(service: &Service, name: &str) -> Job {
    let answer = stores(service).scrub_store(ScrubStoreRequest { name: name.to_owned() }).await;
    answer.expect("a scrub").into_inner().job.expect("a job")
}

/// Flips a bit of the first bytes that are stored, at `offset`.
pub fn damage(service: &Service, offset: usize) {
    let path = service.data_dir().join("store/blobs").join(&service.blobs()[0]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a blob");
    let mut bytes = fs::read(&path).expect("a blob");
    bytes[offset] ^= 4;
    fs::write(&path, bytes).expect("a blob");
}

/// Starts a drain.
pub async fn drain(service: &Service, name: &str) -> Job {
    let answer = stores(service).drain_store(DrainStoreRequest { name: name.to_owned() }).await;
    answer.expect("a drain").into_inner().job.expect("a job")
}
