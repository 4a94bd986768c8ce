//! Which jobs are the same work: asked for twice it is done once (SEC-42).

use imageops_catalogue::Join;
use imageops_model::{JobSpec, Source};
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Result};

/// What jobs that do the same have in common, and which of them another one joins. `None`: each is work of its own.
pub(super) fn same_work(spec: &JobSpec) -> Result<Option<(String, Join)>> {
    let mut alike = spec.clone();
    let has_output = match &mut alike {
        JobSpec::Check(_) | JobSpec::Estimate(_) => false,
        // Their image is to be, under an id that nobody knows yet.
        JobSpec::Compress(spec) => spec.output_image.take().is_none(),
        JobSpec::Convert(spec) => spec.output_image.take().is_none(),
        JobSpec::Copy(_) | JobSpec::Scrub(_) | JobSpec::Drain(_) | JobSpec::Import(_) => return Ok(None),
    };
    let join = match alike.source() {
        // Its bytes never change.
        Some(Source::Image(_)) => Join::NotCancelled,
        // What a job that runs has read of a file may be other bytes by now, also of another file under the name.
        Some(Source::File(_)) if !has_output => Join::NotBegun,
        // Of two that write one file the last one asked for has the last word.
        Some(Source::File(_)) => Join::Newest,
        None => return Ok(None),
    };
    let spec = serde_json::to_vec(&alike).map_err(Failure::internal)?;
    Ok(Some((format!("same:{}", hex::encode(Sha256::digest(spec))), join)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops_model::{CheckSpec, CompressSpec, CompressionChoice, ImageId, Label};
    use uuid::Uuid;

    use super::*;

    fn compress(source: Source, output_file: Option<&str>, label: &str) -> JobSpec {
        let output_image = output_file.is_none().then(|| ImageId(Uuid::new_v4()));
        JobSpec::Compress(CompressSpec {
            source,
            output_file: output_file.map(str::to_owned),
            output_image,
            output_label: Label::new(label.to_owned()).unwrap(),
            companion: false,
            compression: CompressionChoice::default(),
        })
    }

    #[test]
    fn the_same_of_the_same_is_the_same() {
        let image = || Source::Image(ImageId(Uuid::from_u128(7)));
        let of_image = |label| same_work(&compress(image(), None, label)).unwrap().unwrap();
        assert_eq!(of_image("a"), of_image("a"));
        assert_ne!(of_image("a").0, of_image("b").0);
        assert_eq!(of_image("a").1, Join::NotCancelled);
        let file = || Source::File("disk".to_owned());
        let of_file = |output| same_work(&compress(file(), Some(output), "")).unwrap().unwrap();
        assert_eq!(of_file("x"), of_file("x"));
        assert_ne!(of_file("x").0, of_file("y").0);
        assert_eq!(of_file("x").1, Join::Newest);
        let check = |md5| {
            same_work(&JobSpec::Check(CheckSpec { source: file(), md5, sha256: true })).unwrap().unwrap()
        };
        assert_ne!(check(true).0, check(false).0);
        assert_eq!(check(true).1, Join::NotBegun);
    }
}
