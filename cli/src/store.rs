//! `imageops store list|show|add|set|enable|disable|drain|scrub|remove`.

use clap::{ArgGroup, Args, Subcommand};
use imageops::FieldMask;
use imageops::v1::store::Place;
use imageops::v1::{BucketPlace, DirectoryPlace, Store, StoreState, StoreStatus, UpdateStoreRequest};
use imageops_client::Client;

use crate::args::Global;
use crate::exit::{Exit, Failure};
use crate::job;
use crate::output::{Facts, Form, print, print_json, printable, size, table};
use crate::server;

/// What to do with stores.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List the stores, highest weight first.
    List,
    /// Show a store.
    Show {
        /// Name of the store.
        store: String,
    },
    /// Add a directory or a bucket to the stores.
    Add(AddArgs),
    /// Change what is said of a store; what is not named stays.
    Set(SetArgs),
    /// Let a store take new bytes.
    Enable {
        /// Name of the store.
        store: String,
    },
    /// Keep new bytes away from a store; what is there is read.
    Disable {
        /// Name of the store.
        store: String,
    },
    /// Move all images into other stores, and wait for it.
    Drain {
        /// Name of the store.
        store: String,
    },
    /// Compare all bytes with their digests, and wait for it.
    Scrub {
        /// Name of the store.
        store: String,
    },
    /// Forget a store that holds no image; its directory or bucket stays.
    Remove {
        /// Name of the store.
        store: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Name of the store: lower-case letters, digits, `.`, `_` and `-`.
    name: String,

    /// Directory on the server, below one of its --store-roots; or s3://BUCKET/PREFIX.
    place: String,

    /// Address of the object store, with a bucket.
    #[arg(long, default_value = "", hide_default_value = true)]
    endpoint: String,

    /// Region of the bucket.
    #[arg(long, default_value = "", hide_default_value = true)]
    region: String,

    /// New bytes go to the highest weight that has room.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    weight: i32,

    /// Most bytes that a directory may hold.
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,

    /// Text for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("change")
        .args(["weight", "limit_bytes", "no_limit", "description"])
        .required(true)
        .multiple(true)
))]
pub(crate) struct SetArgs {
    /// Name of the store.
    store: String,

    /// New bytes go to the highest weight that has room.
    #[arg(long, allow_negative_numbers = true)]
    weight: Option<i32>,

    /// Most bytes that a directory may hold.
    #[arg(long, value_name = "BYTES", conflicts_with = "no_limit")]
    limit_bytes: Option<u64>,

    /// Let it hold as many bytes as its medium has.
    #[arg(long)]
    no_limit: bool,

    /// Text for people.
    #[arg(long)]
    description: Option<String>,
}

pub(crate) async fn run(global: &Global, command: &StoreCommand) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    let store = match command {
        StoreCommand::List => return list(global, &client).await,
        StoreCommand::Remove { store } => {
            server::call(client.remove_store(store)).await?;
            return Ok(Exit::Success);
        }
        StoreCommand::Drain { store } => {
            let started = server::call(client.drain_store(store)).await?;
            return job::finish(global, &client, started).await;
        }
        StoreCommand::Scrub { store } => {
            let started = server::call(client.scrub_store(store)).await?;
            return job::finish(global, &client, started).await;
        }
        StoreCommand::Show { store } => server::call(client.get_store(store)).await?,
        StoreCommand::Add(arguments) => server::call(client.register_store(arguments.store())).await?,
        StoreCommand::Set(arguments) => server::call(client.update_store(arguments.request())).await?,
        StoreCommand::Enable { store } => set_state(&client, store, StoreState::Enabled).await?,
        StoreCommand::Disable { store } => set_state(&client, store, StoreState::Disabled).await?,
    };
    show(global, &store)?;
    Ok(Exit::Success)
}

impl AddArgs {
    fn store(&self) -> Store {
        let place = match self.place.strip_prefix("s3://") {
            Some(rest) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Place::Bucket(BucketPlace {
                    endpoint: self.endpoint.clone(),
                    region: self.region.clone(),
                    bucket: bucket.to_owned(),
                    prefix: prefix.to_owned(),
                })
            }
            None => Place::Directory(DirectoryPlace { path: self.place.clone() }),
        };
        Store {
            display_name: self.name.clone(),
            description: self.description.clone(),
            place: Some(place),
            weight: self.weight,
            limit_bytes: self.limit_bytes,
            ..Store::default()
        }
    }
}

impl SetArgs {
    fn request(&self) -> UpdateStoreRequest {
        let changed = [
            ("weight", self.weight.is_some()),
            ("limit_bytes", self.limit_bytes.is_some() || self.no_limit),
            ("description", self.description.is_some()),
        ];
        let paths = changed.into_iter().filter(|(_, is_named)| *is_named).map(|(name, _)| name.to_owned());
        let store = Store {
            name: self.store.clone(),
            weight: self.weight.unwrap_or_default(),
            limit_bytes: self.limit_bytes,
            description: self.description.clone().unwrap_or_default(),
            ..Store::default()
        };
        UpdateStoreRequest { store: Some(store), update_mask: Some(FieldMask { paths: paths.collect() }) }
    }
}

async fn set_state(client: &Client, store: &str, state: StoreState) -> Result<Store, Failure> {
    let store = Store { name: store.to_owned(), state: state.into(), ..Store::default() };
    let update_mask = Some(FieldMask { paths: vec!["state".to_owned()] });
    server::call(client.update_store(UpdateStoreRequest { store: Some(store), update_mask })).await
}

async fn list(global: &Global, client: &Client) -> Result<Exit, Failure> {
    let stores = server::call(client.list_stores()).await?;
    if global.output == Form::Json {
        print_json(&stores)?;
        return Ok(Exit::Success);
    }
    let rows = stores.iter().map(|store| {
        vec![
            store.display_name.clone(),
            state(store).to_owned(),
            store.weight.to_string(),
            store.images.to_string(),
            size(store.stored_bytes),
            store.free_bytes.map(size).unwrap_or_default(),
            place(store),
        ]
    });
    print(&table(&["store", "state", "weight>", "images>", "stored>", "free>", "place"], rows))?;
    Ok(Exit::Success)
}

fn show(global: &Global, store: &Store) -> Result<(), Failure> {
    if global.output == Form::Json {
        return print_json(store);
    }
    let mut facts = Facts::default();
    facts.add("store", &store.name);
    facts.add("name", &store.display_name);
    facts.add("state", state(store));
    let problem = (!store.status_message.is_empty()).then(|| printable(&store.status_message));
    facts.add_some("problem", problem);
    facts.add("place", place(store));
    facts.add("weight", store.weight.to_string());
    facts.add_some("limit", store.limit_bytes.map(size));
    facts.add_some("free", store.free_bytes.map(size));
    facts.add("images", store.images.to_string());
    facts.add("stored", size(store.stored_bytes));
    print(&facts.render())
}

fn state(store: &Store) -> &'static str {
    match (store.status(), store.state()) {
        (StoreStatus::Disconnected, _) => "not there",
        (_, StoreState::Enabled) => "enabled",
        (_, StoreState::Disabled) => "disabled",
        (_, StoreState::Draining) => "draining",
        (_, StoreState::Unspecified) => "other",
    }
}

fn place(store: &Store) -> String {
    match &store.place {
        Some(Place::Directory(directory)) => printable(&directory.path),
        Some(Place::Bucket(bucket)) => printable(&format!("s3://{}/{}", bucket.bucket, bucket.prefix)),
        None => String::new(),
    }
}
