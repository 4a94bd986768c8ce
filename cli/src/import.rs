//! `imageops import`.

use clap::{Args, ValueEnum};
use imageops::v1::job::Result as JobResult;
use imageops::v1::{Archive, Digests, ImportImageRequest, UploadMetadata};

use crate::args::{Global, parse_pair};
use crate::exit::{Exit, Failure};
use crate::{image, server};

/// What a file can be packed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PackingName {
    /// As the ending of the URL's path says.
    #[default]
    Auto,
    /// The file is the image.
    None,
    /// The image is in a zip.
    Zip,
    /// The image is packed by gzip.
    Gzip,
    /// The image is packed by xz.
    Xz,
    /// The image is packed by zstd.
    Zstd,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Where the image is: http or https, reachable for the server.
    #[arg(value_name = "URL")]
    url: String,

    /// Name of the image; without it that of the file.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,

    /// Text for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,

    /// Label of the image; may be given more than once, as the next two.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,

    /// Property of the image.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    property: Vec<(String, String)>,

    /// Tag of the image.
    #[arg(long)]
    tag: Vec<String>,

    /// Store that the bytes go to, by its name; without it the server chooses by weight and room.
    #[arg(long, default_value = "", hide_default_value = true)]
    store: String,

    /// SHA-256 that the file must have, as it comes.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "HEX")]
    sha256: String,

    /// SHA-512 that the file must have, as it comes.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "HEX")]
    sha512: String,

    /// MD5 that the file must have, as it comes.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "HEX")]
    md5: String,

    /// What the image is packed in.
    #[arg(long, value_enum, default_value_t)]
    packing: PackingName,

    /// The record that the image fills (images/ID), which keeps what was said of it.
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["name", "description", "label", "property", "tag"])]
    into: Option<String>,
}

impl ImportArgs {
    fn request(&self) -> ImportImageRequest {
        let digests = Digests {
            md5: self.md5.clone(),
            sha256: self.sha256.clone(),
            sha512: self.sha512.clone(),
            ..Digests::default()
        };
        let metadata = UploadMetadata {
            display_name: self.name.clone(),
            description: self.description.clone(),
            labels: self.label.iter().cloned().collect(),
            properties: self.property.iter().cloned().collect(),
            tags: self.tag.clone(),
            store: self.store.clone(),
            expected_digests: Some(digests),
            archive: self.archive().into(),
            image: self.into.clone().unwrap_or_default(),
            ..UploadMetadata::default()
        };
        ImportImageRequest {
            url: self.url.clone(),
            metadata: Some(metadata),
            ..ImportImageRequest::default()
        }
    }

    fn archive(&self) -> Archive {
        let path = self.url.split(['?', '#']).next().unwrap_or_default().to_lowercase();
        match self.packing {
            PackingName::Auto => match path.rsplit('.').next() {
                Some("zip") => Archive::Zip,
                Some("gz") => Archive::Gzip,
                Some("xz") => Archive::Xz,
                Some("zst") => Archive::Zstd,
                _ => Archive::Unspecified,
            },
            PackingName::None => Archive::Unspecified,
            PackingName::Zip => Archive::Zip,
            PackingName::Gzip => Archive::Gzip,
            PackingName::Xz => Archive::Xz,
            PackingName::Zstd => Archive::Zstd,
        }
    }
}

/// Has the server fetch an image, follows it, and prints the image.
pub(crate) async fn run(global: &Global, arguments: &ImportArgs) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    let job = server::call(client.import_image(arguments.request())).await?;
    let job = server::run_job(&client, job).await?;
    let Some(JobResult::Import(result)) = job.result else {
        return Err(Failure::new("the server does not say which image it made").of(&job.name));
    };
    image::show(global, &server::call(client.get_image(&result.image)).await?)?;
    Ok(Exit::Success)
}
