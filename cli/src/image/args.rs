//! The command line of `imageops image`.

use clap::{Args, Subcommand, ValueEnum};
use imageops::v1::{ImageOrder, ImageState, ListImagesRequest};

use crate::args::parse_pair;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images, newest first.
    List(ListArgs),
    /// Show an image.
    Show {
        /// images/ID, or the ID alone.
        image: String,
    },
    /// Change what is said of an image: name, description, labels, properties, tags. Its bytes never change.
    Set(SetArgs),
    /// Put an image into the trash.
    Delete(DeleteArgs),
    /// Take an image out of the trash.
    Restore {
        /// images/ID, or the ID alone.
        image: String,
    },
    /// Copy the bytes of an image into another store, and wait for it.
    Copy {
        /// images/ID, or the ID alone.
        image: String,
        /// The store, by its name.
        #[arg(long, value_name = "STORE")]
        to: String,
    },
    /// Remove the copy of an image in a store; the last one stays.
    Forget {
        /// images/ID, or the ID alone.
        image: String,
        /// The store, by its name.
        #[arg(long, value_name = "STORE")]
        from: String,
    },
    /// Remove an image that lies in the trash for good.
    Purge {
        /// images/ID, or the ID alone.
        image: String,
    },
}

/// Orders that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderName {
    /// By creation, newest first.
    #[default]
    Newest,
    /// By creation, oldest first.
    Oldest,
    /// By name.
    Name,
    /// By stored size, largest first.
    Largest,
    /// By stored size, smallest first.
    Smallest,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Order of the list.
    #[arg(long, value_enum, default_value_t)]
    order: OrderName,

    /// Only images in the trash.
    #[arg(long)]
    trash: bool,

    /// Only images with exactly this name.
    #[arg(long)]
    name: Option<String>,

    /// Only images with this label; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,

    /// Only images with this tag; may be given more than once.
    #[arg(long)]
    tag: Vec<String>,

    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
}

impl ListArgs {
    /// The request for the first page.
    pub(crate) fn request(&self) -> ListImagesRequest {
        let order = match self.order {
            OrderName::Newest => ImageOrder::Newest,
            OrderName::Oldest => ImageOrder::Oldest,
            OrderName::Name => ImageOrder::DisplayName,
            OrderName::Largest => ImageOrder::Largest,
            OrderName::Smallest => ImageOrder::Smallest,
        };
        ListImagesRequest {
            order: order.into(),
            states: self.trash.then_some(ImageState::Trashed.into()).into_iter().collect(),
            display_name: self.name.clone(),
            labels: self.label.iter().cloned().collect(),
            tags: self.tag.clone(),
            ..ListImagesRequest::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// images/ID, or the ID alone.
    pub(crate) image: String,

    /// Remove it for good at once: it cannot be taken back.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// images/ID, or the ID alone.
    pub(crate) image: String,

    /// The name.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Text for people.
    #[arg(long)]
    pub(crate) description: Option<String>,

    /// Set a label. May be given more than once, as the next ones.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) label: Vec<(String, String)>,

    /// Take a label away.
    #[arg(long, value_name = "KEY")]
    pub(crate) remove_label: Vec<String>,

    /// Set a property.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) property: Vec<(String, String)>,

    /// Take a property away.
    #[arg(long, value_name = "NAME")]
    pub(crate) remove_property: Vec<String>,

    /// Add a tag.
    #[arg(long)]
    pub(crate) tag: Vec<String>,

    /// Take a tag away.
    #[arg(long, value_name = "TAG")]
    pub(crate) remove_tag: Vec<String>,

    /// Whether the image refuses to be deleted.
    #[arg(long, value_name = "BOOL")]
    pub(crate) protected: Option<bool>,

    /// Whether its bytes are withheld.
    #[arg(long, value_name = "BOOL")]
    pub(crate) disabled: Option<bool>,
}
