//! `imageops image list|show|set|delete|restore|copy|forget|purge`.

mod args;
mod change;

use imageops::v1::{Image, ImageFormat, ImageState, ListImagesRequest, UpdateImageRequest};
use imageops_client::Client;

pub(crate) use self::args::ImageCommand;
use self::args::{DeleteArgs, ListArgs, SetArgs};
use crate::args::Global;
use crate::exit::{Exit, Failure};
use crate::job::time;
use crate::output::{Facts, Form, print, print_json, printable, size, size_exact, table};
use crate::server;

/// Images of one page.
const PAGE_SIZE_MAX: usize = 1000;

pub(crate) async fn run(global: &Global, command: &ImageCommand) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    let image = match command {
        ImageCommand::List(arguments) => return list(global, &client, arguments).await,
        ImageCommand::Purge { image } => {
            server::call(client.purge_image(&name(image), "")).await?;
            return Ok(Exit::Success);
        }
        ImageCommand::Delete(arguments) => match delete(&client, arguments).await? {
            Some(image) => image,
            None => return Ok(Exit::Success),
        },
        ImageCommand::Copy { image, to } => {
            let job = server::call(client.copy_image(&name(image), to)).await?;
            server::run_job(&client, job).await?;
            server::call(client.get_image(&name(image))).await?
        }
        ImageCommand::Forget { image, from } => {
            server::call(client.remove_replica(&name(image), from, "")).await?
        }
        ImageCommand::Show { image } => server::call(client.get_image(&name(image))).await?,
        ImageCommand::Set(arguments) => set(&client, arguments).await?,
        ImageCommand::Restore { image } => server::call(client.restore_image(&name(image))).await?,
    };
    show(global, &image)?;
    Ok(Exit::Success)
}

/// The full name of an image that was given by name or by its id alone.
fn name(image: &str) -> String {
    if image.contains('/') { image.to_owned() } else { format!("images/{image}") }
}

async fn list(global: &Global, client: &Client, arguments: &ListArgs) -> Result<Exit, Failure> {
    let mut request = arguments.request();
    let mut images: Vec<Image> = Vec::new();
    while images.len() < arguments.limit {
        request.page_size = (arguments.limit - images.len()).min(PAGE_SIZE_MAX) as u32;
        let page = server::call(client.list_images(ListImagesRequest::clone(&request))).await?;
        images.extend(page.images);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    images.truncate(arguments.limit);
    if global.output == Form::Json {
        print_json(&images)?;
        return Ok(Exit::Success);
    }
    if images.is_empty() {
        print("no images")?;
        return Ok(Exit::Success);
    }
    let rows = images.iter().map(|image| {
        vec![
            image.name.clone(),
            printable(&image.display_name),
            state(image).to_owned(),
            format_name(image),
            size(image.size_bytes),
            image.create_time.as_ref().map(time).unwrap_or_default(),
        ]
    });
    print(&table(&["image", "name", "state", "format", "size>", "created"], rows))?;
    Ok(Exit::Success)
}

/// Reads the image, changes what was asked for, and writes it back unless somebody else was faster.
async fn set(client: &Client, arguments: &SetArgs) -> Result<Image, Failure> {
    let before = server::call(client.get_image(&name(&arguments.image))).await?;
    let (image, update_mask) = arguments.apply(before)?;
    let request = UpdateImageRequest { image: Some(image), update_mask: Some(update_mask) };
    server::call(client.update_image(request)).await
}

/// The image as it lies in the trash; `None` when it has gone for good.
async fn delete(client: &Client, arguments: &DeleteArgs) -> Result<Option<Image>, Failure> {
    let trashed = server::call(client.delete_image(&name(&arguments.image), "")).await?;
    if !arguments.purge {
        return Ok(Some(trashed));
    }
    server::call(client.purge_image(&trashed.name, &trashed.etag)).await?;
    Ok(None)
}

/// Prints an image.
pub(crate) fn show(global: &Global, image: &Image) -> Result<(), Failure> {
    if global.output == Form::Json {
        return print_json(image);
    }
    let mut facts = Facts::default();
    facts.add("image", &image.name);
    facts.add_some("name", filled(&image.display_name));
    facts.add("state", state(image));
    facts.add("format", format_name(image));
    facts.add("size", size_exact(image.size_bytes));
    facts.add_some("virtual size", image.virtual_size_bytes.map(size_exact));
    if let Some(digests) = &image.digests {
        facts.add("md5", &digests.md5);
        facts.add("sha256", &digests.sha256);
    }
    facts.add_some("made from", filled(&image.derived_from));
    facts.add_some("description", filled(&image.description));
    facts.add_some("labels", pairs(&image.labels));
    facts.add_some("properties", pairs(&image.properties));
    facts.add_some("tags", filled(&image.tags.join(", ")));
    facts.add_some("protected", image.protected.then_some("yes"));
    facts.add_some("created", image.create_time.as_ref().map(time));
    facts.add_some("deleted", image.delete_time.as_ref().map(time));
    facts.add_some("goes for good", image.purge_time.as_ref().map(time));
    print(&facts.render())
}

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn pairs(texts: &std::collections::HashMap<String, String>) -> Option<String> {
    let mut pairs: Vec<_> = texts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort();
    (!pairs.is_empty()).then(|| pairs.join(", "))
}

fn state(image: &Image) -> &'static str {
    match image.state() {
        ImageState::Active if image.disabled => "disabled",
        ImageState::Active => "active",
        ImageState::Queued => "queued",
        ImageState::Uploading => "uploading",
        ImageState::Importing => "importing",
        ImageState::Failed => "failed",
        ImageState::Trashed => "in the trash",
        ImageState::Quarantined => "quarantined",
        ImageState::Unspecified => "other",
    }
}

fn format_name(image: &Image) -> String {
    let name = ImageFormat::as_str_name(&image.format());
    name.strip_prefix("IMAGE_FORMAT_").unwrap_or(name).to_ascii_lowercase()
}
