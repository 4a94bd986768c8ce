//! The documents tell what the programs do: reasons, settings, routes, calls, metrics, links and paths in them are
//! compared with the code.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use support::{Service, binary, http};

/// Folders of the workspace: a path in backticks that begins with one of them must exist.
const FOLDERS: [&str; 10] =
    ["client/", "cli/", "crates/", "docs/", "gateway/", "proto/", "server/", "tests/", "xtask/", ".ci/"];
/// Top directories of places that only one machine has.
const MACHINE_DIRECTORIES: [&str; 5] = ["home", "mnt", "root", "tmp", "work"];
/// Longest that a newcomer reads of the architecture.
const ARCHITECTURE_LINES_MAX: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Fails with one line for each of `missing`.
#[track_caller]
fn assert_none(what: &str, missing: impl IntoIterator<Item = impl std::fmt::Display>) {
    let missing: Vec<_> = missing.into_iter().map(|one| one.to_string()).collect();
    assert!(missing.is_empty(), "{what}:\n{}", missing.join("\n"));
}

/// Words of a text that begin with `prefix` and go on with characters of a name.
fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).map(move |(start, _)| {
        let rest = &text[start + prefix.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).unwrap_or(rest.len());
        &text[start..start + prefix.len() + end]
    })
}

/// Text literals of a source without its tests.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or(source);
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//") && !line.contains("env!("))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
}

fn is_code(text: &str) -> bool {
    let upper = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    text.len() > 1 && text.bytes().all(upper) && !text.starts_with('_') && !text.ends_with('_')
}

/// The constants of a list of reasons.
fn constants(path: &str) -> BTreeSet<String> {
    let source = read(path);
    let lines = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    lines.map(|line| line.split('"').nth(1).expect("a reason is a text").to_owned()).collect()
}

/// All Rust sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    files(folder, "rs")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Reasons that the gateway gives by itself.
fn gateway_reasons() -> BTreeSet<String> {
    let mut reasons = BTreeSet::new();
    for path in sources(&root().join("gateway/src")) {
        // The program's own file holds names of variables.
        if !path.ends_with("gateway/src/main.rs") {
            let source = fs::read_to_string(path).unwrap();
            reasons.extend(
                literals(&source).filter(|text| is_code(text) && text.contains('_')).map(str::to_owned),
            );
        }
    }
    // The names of the gRPC codes, which stand for errors without a reason.
    let source = read("client/rust/src/error.rs");
    let names = source.split("fn code_name").nth(1).and_then(|rest| rest.split("\n}").next());
    let names =
        literals(names.expect("the names of the codes")).filter(|text| is_code(text) && *text != "OK");
    reasons.extend(names.map(str::to_owned));
    reasons
}

/// Codes of what a check finds: the names of the engine's kinds in the contract's spelling.
fn finding_codes() -> BTreeSet<String> {
    let source = read("crates/image/src/check/finding.rs");
    let kinds = source.split("pub enum FindingKind {").nth(1).and_then(|rest| rest.split("\n}").next());
    let names =
        kinds.expect("the kinds of findings").lines().map(str::trim).filter(|line| !line.starts_with("//"));
    names.filter_map(|line| line.strip_suffix(',')).map(upper_snake).collect()
}

fn upper_snake(name: &str) -> String {
    let mut code = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    code
}

/// Each reason has a heading of its own, so that the `type` of a problem leads to it.
#[test]
fn every_reason_is_explained_and_every_explained_reason_exists() {
    let document = read("docs/errors.md");
    let headings: Vec<_> = document.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let explained: BTreeSet<_> = headings.iter().map(|&heading| heading.to_owned()).collect();
    assert_eq!(explained.len(), headings.len(), "docs/errors.md explains a reason twice");

    let mut known = constants("server/src/reason.rs");
    known.extend(constants("crates/image/src/reason.rs"));
    assert!(known.len() > 80, "the reasons were not read");
    known.extend(finding_codes());
    known.extend(gateway_reasons());
    for path in sources(&root().join("crates/catalogue/src")) {
        let source = fs::read_to_string(path).unwrap();
        let given = source.lines().filter_map(|line| line.trim().strip_prefix("reason: \""));
        known.extend(given.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    assert_none("reasons that docs/errors.md does not explain", known.difference(&explained));
    assert_none("reasons in docs/errors.md that nothing gives", explained.difference(&known));
}

/// Flags and variables that a program names in its help.
fn settings(program: &str) -> BTreeSet<String> {
    let output = Command::new(binary(program)).arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeSet::new();
    for line in help.lines().map(str::trim_start) {
        let flag = line.strip_prefix("-h, ").or_else(|| line.strip_prefix("-V, ")).unwrap_or(line);
        if flag.starts_with("--") {
            found.extend(words(flag, "--").next().map(str::to_owned));
        }
        if let Some(variable) = line.strip_prefix("[env: ") {
            found.extend(variable.split(['=', ']']).next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_setting_of_the_programs_is_documented() {
    let document = read("docs/configuration.md");
    for program in ["imageops-server", "imageops-gateway"] {
        let settings = settings(program);
        assert!(settings.len() > 12, "the help of {program} was not read: {settings:?}");
        let missing = settings.iter().filter(|setting| {
            let ends = |end| document.contains(&format!("`{setting}{end}"));
            !(ends("`") || ends(" ") || ends("="))
        });
        assert_none(&format!("settings of {program} that docs/configuration.md lacks"), missing);
    }
}

#[test]
fn every_documented_variable_exists() {
    let document = read("docs/configuration.md");
    let sources = ["server/src/config.rs", "gateway/src/main.rs", "cli/src/args.rs"].map(read).join("\n");
    let unknown: BTreeSet<_> =
        words(&document, "IMAGEOPS_").filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    assert_none("variables in docs/configuration.md that nothing reads", unknown);
}

#[test]
fn the_documented_defaults_are_those_in_force() {
    let output = Command::new(binary("imageops-server"))
        .args(["--print-config", "--data-dir", "/srv/imageops"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let document = read("docs/configuration.md");
    // The other programs have tables of their own.
    let of_the_server = document.split("\n## The gateway").next().unwrap();
    let mut compared = 0;
    for line in of_the_server.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (flag, default) = (cells[1].trim_matches('`'), cells[3].trim_matches('`'));
        let key = words(flag, "--").next().unwrap().trim_start_matches("--").replace('-', "_");
        let Some(value) = printed.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))) else {
            continue;
        };
        // What depends on the machine is described in words.
        if ["data_dir", "image_path", "workers", "job_threads"].contains(&key.as_str()) {
            continue;
        }
        let value = value.replace("\", \"", ",");
        let value = match value.trim_matches(['"', '[', ']']).trim_end_matches(".0") {
            "1099511627776" => "1 TiB",
            "17592186044416" => "16 TiB",
            "21474836480" => "20 GiB",
            "" => "none",
            plain => plain,
        };
        assert_eq!(default, value, "the default of {flag}");
        compared += 1;
    }
    assert!(compared >= 15, "only {compared} defaults were compared");
}

#[test]
fn every_route_is_documented() {
    let service = Service::start();
    let document = http::get(service.http(), "/openapi.json").json();
    let manual = read("docs/api.md");
    let mut missing = Vec::new();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 10, "the routes were not read");
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("`{} {path}`", method.to_uppercase());
            if !manual.contains(&route) {
                missing.push(route);
            }
        }
    }
    assert_none("routes that docs/api.md lacks", missing);
    // What the manual names must be there, too.
    let unknown = manual.split('`').skip(1).step_by(2).filter(|text| {
        let Some((method, path)) = text.split_once(' ') else { return false };
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method)
            && path.starts_with('/')
            && document["paths"][path.split('?').next().unwrap()][method.to_lowercase()].is_null()
            && !path.contains("{request_id}")
    });
    assert_none("routes in docs/api.md that are not served", unknown);
}

#[test]
fn every_call_is_documented() {
    let pool = DescriptorPool::decode(imageops::v1::FILE_DESCRIPTOR_SET).unwrap();
    let manual = read("docs/api.md");
    let missing: Vec<_> = pool
        .services()
        .flat_map(|service| service.methods().map(|method| method.name().to_owned()).collect::<Vec<_>>())
        .filter(|name| !manual.contains(&format!("`{name}`")))
        .collect();
    assert_none("calls that docs/api.md lacks", missing);
}

/// The scopes that the manual names are those of the contract, which `tests/access.rs` compares with the server.
#[test]
fn the_documented_scope_of_a_call_is_that_of_the_contract() {
    let manual = read("docs/api.md");
    let contract = read("proto/imageops/v1/service.proto");
    let mut compared = 0;
    for line in manual.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 4) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let names = cells[1].split('`').skip(1).step_by(2);
        for name in names {
            let Some((before, _)) = contract.split_once(&format!("  rpc {name}(")) else { continue };
            let words = before.replace("//", " ").split_whitespace().collect::<Vec<_>>().join(" ");
            let (_, scope) = words.rsplit_once("Scope: ").expect("a scope");
            let scope = scope.split(['.', ',']).next().unwrap();
            assert_eq!(cells[3].split(',').next(), Some(scope), "the scope of {name}");
            compared += 1;
        }
    }
    assert!(compared > 35, "only {compared} scopes were compared");
}

/// Whether a message has a `request_id`, in itself or in the metadata of an upload.
fn has_request_id(message: &MessageDescriptor) -> bool {
    message.get_field_by_name("request_id").is_some()
        || message.fields().any(|field| {
            let Kind::Message(inner) = field.kind() else { return false };
            inner.name() == "UploadMetadata"
        })
}

#[test]
fn every_request_id_is_documented() {
    let pool = DescriptorPool::decode(imageops::v1::FILE_DESCRIPTOR_SET).unwrap();
    let calls: BTreeSet<_> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .filter(|method| has_request_id(&method.input()))
        .map(|method| method.name().to_owned())
        .collect();
    assert!(calls.len() > 5, "the calls were not read: {calls:?}");
    let manual = read("docs/api.md");
    let section = manual.split("### Idempotency").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<_> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect();
    assert_none("calls with a request_id that docs/api.md lacks", calls.difference(&documented));
    assert_none("calls in docs/api.md that have no request_id", documented.difference(&calls));
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let mut known = BTreeSet::new();
    for folder in ["server/src", "gateway/src"] {
        for path in sources(&root().join(folder)) {
            let source = fs::read_to_string(path).unwrap();
            let names = literals(&source).filter(|text| {
                text.starts_with("imageops_")
                    && !text.contains(|c: char| !(c.is_ascii_lowercase() || c == '_'))
            });
            known.extend(names.map(str::to_owned));
        }
    }
    assert!(known.len() > 5, "the metrics were not read: {known:?}");
    let manual = read("docs/operations.md");
    let table = manual.split("## Metrics").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let documented: BTreeSet<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `imageops_"))
        .filter_map(|rest| Some(format!("imageops_{}", rest.split('`').next()?)))
        .collect();
    assert_none("metrics that docs/operations.md lacks", known.difference(&documented));
    assert_none("metrics in docs/operations.md that nothing keeps", documented.difference(&known));
}

fn documents() -> Vec<(PathBuf, String)> {
    let found = files(root(), "md");
    assert!(found.len() > 8, "the documents were not found");
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The anchor that a heading gets: small letters, no punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        for (start, _) in text.match_indices("](") {
            let target = text[start + 2..].split([')', ' ']).next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let leads = to.exists()
                && (wanted.is_empty() || fs::read_to_string(&to).is_ok_and(|text| has_anchor(&text, wanted)));
            if !leads {
                broken.push(format!("{}: {target}", short(&path)));
            }
        }
    }
    assert_none("links that lead nowhere", broken);
}

#[test]
fn every_path_of_the_repository_exists() {
    let mut missing = Vec::new();
    for (path, text) in documents() {
        for named in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = FOLDERS.iter().any(|folder| named.starts_with(folder))
                && named.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            // Go's tags look like paths.
            if is_path && !named.contains("/vX") && !root().join(named).exists() {
                missing.push(format!("{}: {named}", short(&path)));
            }
        }
    }
    assert_none("paths that do not exist", missing);
}

#[test]
fn no_document_holds_a_path_of_one_machine() {
    let mut found = Vec::new();
    for (path, text) in documents() {
        for place in MACHINE_DIRECTORIES.map(|name| format!("/{name}/")) {
            let at = |line: &&str| line.contains(&place);
            found.extend(text.lines().filter(at).map(|line| format!("{}: {line}", short(&path))));
        }
    }
    assert_none("paths of one machine", found);
}

#[test]
fn the_architecture_stays_readable() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(lines < ARCHITECTURE_LINES_MAX, "{lines} lines are more than a newcomer reads");
}
