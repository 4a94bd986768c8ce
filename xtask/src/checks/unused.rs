//! Finds dependencies that a manifest names and no source of its package mentions.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::workspace::{self, Workspace};

/// Dependencies that are right although no source names them: (package, dependency).
const NAMED_BY_NO_SOURCE: &[(&str, &str)] = &[
    // The generated code of the root package is not among its sources.
    ("imageops", "bytes"),
    ("imageops", "pbjson"),
    ("imageops", "pbjson-types"),
    ("imageops", "prost"),
    ("imageops", "serde"),
    ("imageops", "tonic"),
    ("imageops", "tonic-prost"),
];

/// Whether there are none.
pub(crate) fn none(workspace: &Workspace) -> Result<bool> {
    let metadata = workspace::metadata(&workspace.root)?;
    let mut found = false;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = text(&package["name"]);
        let manifest = Path::new(text(&package["manifest_path"]));
        let directory = manifest.parent().context("a manifest without a directory")?;
        let mut sources = String::new();
        for part in ["src", "tests", "benches", "examples", "build.rs"] {
            read_sources(&directory.join(part), &mut sources)?;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let crate_name = dependency["rename"].as_str().unwrap_or_else(|| text(&dependency["name"]));
            let allowed = NAMED_BY_NO_SOURCE.contains(&(name, crate_name));
            if !allowed && !mentions(&sources, &library_name(crate_name)) {
                println!("{name}: no source mentions {crate_name}");
                found = true;
            }
        }
    }
    Ok(!found)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The name under which sources know a package. `md-5` is the one of ours whose library is called otherwise.
fn library_name(package: &str) -> String {
    if package == "md-5" { "md5".to_owned() } else { package.replace('-', "_") }
}

/// Whether `word` stands in `sources` as a path or an import, not as a part of another word.
fn mentions(sources: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    sources.match_indices(word).any(|(at, _)| {
        let before = sources[..at].chars().next_back();
        let after = sources[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Appends all Rust sources at or below `path`, which need not exist.
fn read_sources(path: &Path, sources: &mut String) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            read_sources(&entry?.path(), sources)?;
        }
    } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        sources
            .push_str(&fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn a_part_of_a_word_is_no_mention() {
        assert!(mentions("use tokio::net;", "tokio"));
        assert!(mentions("#[tokio::test]", "tokio"));
        assert!(!mentions("use tokio_stream::StreamExt;", "tokio"));
        assert!(!mentions("let rehex = 1;", "hex"));
    }
}
