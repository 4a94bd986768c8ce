//! `imageops inspect`.

use std::path::Path;
use std::sync::Arc;

use imageops::v1::{ImageFormat, InspectRequest};
use imageops_image::format::Format;
use imageops_image::inspect::{InspectOptions, inspect};
use imageops_image::storage::Storage;

use crate::args::{FormatName, Global, InspectArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, note, print, print_json};
use crate::view::{Inspection, Reason, Verdict, parts_table};
use crate::{local, server};

/// Inspects an image and prints the verdict. A failure has the form of an inspection too, without a verdict.
pub(crate) async fn run(global: &Global, arguments: &InspectArgs) -> Result<Exit, Failure> {
    let inspected = match global.server() {
        Some(_) => through_server(global, arguments).await,
        None => here(arguments).await,
    };
    let (inspection, exit) = match inspected {
        Ok(inspection) => {
            let exit = exit_of(inspection.verdict);
            (inspection, exit)
        }
        Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
        Err(failure) => {
            note(&format!("imageops: {failure}"));
            (Inspection { reasons: vec![Reason::from(&failure)], ..Inspection::default() }, Exit::Unknown)
        }
    };
    match global.output {
        Form::Json => print_json(&inspection)?,
        Form::Table if exit == Exit::Unknown => {}
        Form::Table => print(&text(&arguments.source, &inspection))?,
    }
    Ok(exit)
}

fn exit_of(verdict: Option<Verdict>) -> Exit {
    match verdict {
        Some(Verdict::Valid) => Exit::Success,
        Some(_) => Exit::Refused,
        None => Exit::Unknown,
    }
}

async fn here(arguments: &InspectArgs) -> Result<Inspection, Failure> {
    let path = arguments.source.clone();
    let declared = arguments.format.map(Format::from);
    local::run(move |_| inspect_file(&path, declared)).await
}

fn inspect_file(path: &Path, declared: Option<Format>) -> Result<Inspection, Failure> {
    let storage: Arc<dyn Storage> = local::open(path)?;
    let options = InspectOptions { declared_format: declared, ..InspectOptions::default() };
    let inspection = inspect(&storage, &options).map_err(|error| Failure::from(error).of(path.display()))?;
    Ok(inspection.into())
}

async fn through_server(global: &Global, arguments: &InspectArgs) -> Result<Inspection, Failure> {
    let declared = match arguments.format {
        None => ImageFormat::Unspecified,
        Some(FormatName::Raw) => ImageFormat::Raw,
        Some(FormatName::Qcow2) => ImageFormat::Qcow2,
    };
    let source = Some(server::source(&arguments.source)?);
    let client = server::connect(global)?;
    let request = InspectRequest { source, declared_format: declared.into() };
    Ok(server::call(client.inspect(request)).await?.into())
}

fn text(source: &Path, inspection: &Inspection) -> String {
    let mut facts = Facts::default();
    facts.add("image", source.to_string_lossy());
    inspection.add_facts(&mut facts);
    inspection.add_verdict(&mut facts);
    facts.render() + &parts_table(&inspection.parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_image_ends_well() {
        assert_eq!(exit_of(Some(Verdict::Valid)), Exit::Success);
        for verdict in [Verdict::Corrupt, Verdict::Invalid, Verdict::Unsafe, Verdict::Unsupported] {
            assert_eq!(exit_of(Some(verdict)), Exit::Refused);
        }
        assert_eq!(exit_of(None), Exit::Unknown);
    }
}
