//! Who may import whom: the layers of ARCHITECTURE.md, read from `cargo metadata`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Our crates and which others of ours each may depend on directly. A crate that is not listed may not exist: a new one
/// takes its place in the layers first. What tests alone use is free.
const LAYERS: &[(&str, &[&str])] = &[
    // The generated types: nothing else.
    ("imageops", &[]),
    // Runs in a seeded simulator.
    ("imageops-model", &[]),
    // Hostile input meets these two: small, fuzzable, usable alone.
    ("imageops-archive", &[]),
    // So does hostile network.
    ("imageops-fetch", &[]),
    ("imageops-image", &["imageops-model"]),
    // The server joins these two; the order of durability is decided in one place.
    ("imageops-store", &["imageops-model"]),
    ("imageops-catalogue", &["imageops-model"]),
    // Of the listeners alone: nothing of what is spoken behind them.
    ("imageops-tls", &[]),
    ("imageops-client", &["imageops"]),
    // A gateway may run on another host: all that it knows goes over the RPCs.
    ("imageops-gateway", &["imageops", "imageops-client", "imageops-tls"]),
    ("imageops-cli", &["imageops", "imageops-client", "imageops-image"]),
    // The only one that knows both the wire and the model.
    (
        "imageops-server",
        &[
            "imageops",
            "imageops-archive",
            "imageops-catalogue",
            "imageops-client",
            "imageops-fetch",
            "imageops-gateway",
            "imageops-image",
            "imageops-model",
            "imageops-store",
            "imageops-tls",
        ],
    ),
    ("imageops-xtask", &[]),
];

/// What a crate must not be linked with, not even through others. Cargo tells the features of the whole workspace at once,
/// so crates that use tonic seem to hold its server parts too: those are told of nobody here who uses tonic.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "imageops-model",
        &["tokio", "jiff", "chrono", "time", "rustix", "tonic", "prost", "axum", "hyper", "sqlx"],
    ),
    ("imageops-archive", &["tokio", "rustix", "tonic", "prost", "axum", "hyper", "sqlx"]),
    ("imageops-fetch", &["imageops", "tonic", "prost", "axum", "sqlx"]),
    ("imageops-image", &["imageops", "tokio", "tonic", "prost", "axum", "hyper", "sqlx"]),
    // Its client of S3 servers brings hyper.
    ("imageops-store", &["imageops", "tonic", "prost", "axum", "sqlx", "imageops-catalogue"]),
    ("imageops-catalogue", &["imageops", "tonic", "prost", "axum", "hyper", "imageops-store"]),
    ("imageops-tls", &["imageops", "imageops-model", "tonic", "prost", "axum", "hyper", "sqlx"]),
    (
        "imageops-client",
        &["imageops-model", "imageops-store", "imageops-catalogue", "imageops-server", "sqlx"],
    ),
    (
        "imageops-gateway",
        &["imageops-model", "imageops-store", "imageops-catalogue", "imageops-server", "sqlx"],
    ),
    (
        "imageops-cli",
        &["imageops-store", "imageops-catalogue", "imageops-server", "imageops-gateway", "sqlx"],
    ),
];

/// Words that no source of a crate may hold: parts of the standard library that the graph of crates does not show.
const FORBIDDEN_WORDS: &[(&str, &[&str])] =
    &[("imageops-model", &["std::fs", "std::net", "std::env", "std::process", "SystemTime", "Instant"])];

#[test]
fn our_crates_keep_to_their_layers() {
    let graph = Graph::of(&metadata());
    let mut faults = graph.faults();
    let listed: BTreeSet<_> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    faults.extend(graph.ours.difference(&listed).map(|name| format!("{name} has no place in the layers")));
    faults.extend(
        listed.difference(&graph.ours).map(|name| format!("{name} has a place in the layers and is gone")),
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn sources_keep_away_from_what_their_crate_must_not_touch() {
    let metadata = metadata();
    for (name, words) in FORBIDDEN_WORDS {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == *name).unwrap();
        let mut faults = Vec::new();
        for_each_source(
            package.manifest_path.parent().unwrap().join("src").as_std_path(),
            &mut |path, text| {
                faults.extend(
                    words.iter().filter(|word| text.contains(**word)).map(|word| format!("{path:?}: {word}")),
                );
            },
        );
        assert!(faults.is_empty(), "{name}: {}", faults.join("\n"));
    }
}

/// A wrong edge anywhere is noticed: the table is worth something.
#[test]
fn a_wrong_dependency_is_noticed() {
    let graph = Graph::of(&metadata());
    let wrong = [
        ("imageops-model", "imageops-store"),
        ("imageops-image", "sqlx"),
        ("imageops-archive", "imageops-image"),
        ("imageops-gateway", "imageops-archive"),
        ("imageops-store", "imageops-catalogue"),
        ("imageops-gateway", "imageops-server"),
        ("imageops-client", "imageops-model"),
        ("imageops-cli", "imageops-catalogue"),
    ];
    for (from, to) in wrong {
        let mut worse = graph.clone();
        worse.edges.entry(from.to_owned()).or_default().insert(to.to_owned());
        assert!(!worse.faults().is_empty(), "{from} → {to} is not noticed");
    }
    let mut through_another = graph;
    through_another.edges.entry("thiserror".to_owned()).or_default().insert("sqlx".to_owned());
    assert!(!through_another.faults().is_empty(), "an edge of a dependency is not noticed");
}

/// Which crate is linked with which, by name; what only tests or build scripts use is left out.
#[derive(Clone)]
struct Graph {
    ours: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of(metadata: &Metadata) -> Self {
        let name = |id| metadata[id].name.to_string();
        let mut edges = BTreeMap::<_, BTreeSet<_>>::new();
        for node in &metadata.resolve.as_ref().unwrap().nodes {
            let linked = node
                .deps
                .iter()
                .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal))
                .map(|dep| name(&dep.pkg));
            edges.entry(name(&node.id)).or_default().extend(linked);
        }
        Self { ours: metadata.workspace_members.iter().map(name).collect(), edges }
    }

    fn direct(&self, from: &str) -> BTreeSet<String> {
        self.edges.get(from).cloned().unwrap_or_default()
    }

    /// All that is linked into `from`, itself left out.
    fn reachable(&self, from: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(next) = open.pop() {
            open.extend(self.direct(&next).into_iter().filter(|name| seen.insert(name.clone())));
        }
        seen
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (from, allowed) in LAYERS {
            let ours = self.direct(from).into_iter().filter(|to| self.ours.contains(to));
            faults.extend(
                ours.filter(|to| !allowed.contains(&to.as_str()))
                    .map(|to| format!("{from} must not import {to}")),
            );
        }
        for (from, forbidden) in FORBIDDEN {
            let reachable = self.reachable(from);
            let linked = forbidden.iter().filter(|to| reachable.contains(**to));
            faults.extend(linked.map(|to| format!("{from} must not be linked with {to}")));
        }
        faults
    }
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        // What the tests were built from is on this machine; nothing is fetched.
        .other_options(["--locked".to_owned()])
        .exec()
        .unwrap()
}

fn for_each_source(directory: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_source(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
