//! The rules of docs/architecture.md that a reader of one file cannot see: imports point one way, and every route has
//! its rows in the table of personas.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The layers, from the top; a layer may use those below it and its own. `app` joins the parts and is known to those that
/// serve requests.
const LAYERS: [&[&str]; 7] = [
    &["cli", "server", "log"],
    &["http"],
    &["app"],
    &["images", "schemas"],
    &["auth", "policy", "limits", "db", "store", "inspect"],
    &["stream", "egress"],
    &["model", "context", "config", "error"],
];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|modules| modules.contains(&module)).unwrap_or_else(|| panic!("{module} is in no layer"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules of this crate that a file's code outside its tests names, by their first segment.
fn used(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut modules = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // The first segment of each part of `use crate::{…}`, whose own groups are skipped.
            let mut depth = 0;
            let mut segment = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.push(std::mem::take(&mut segment)),
                    c if depth == 0 => segment.push(c),
                    _ => {}
                }
            }
            modules.push(segment);
        } else {
            modules.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    let first = |path: String| path.trim().split("::").next().unwrap_or_default().to_owned();
    modules.into_iter().map(first).filter(|module| !module.is_empty()).collect()
}

#[test]
fn imports_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for file in sources(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let module =
            relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        for target in used(&fs::read_to_string(&file).unwrap()) {
            checked += 1;
            // Services are handed the joined parts.
            let known = (module.as_str(), target.as_str()) == ("images", "app");
            // The records are the same, whoever asks.
            let forbidden = (module.as_str(), target.as_str()) == ("db", "context");
            let points_down = layer(&module) <= layer(&target) && !forbidden;
            assert!(points_down || known, "{} uses crate::{target}, which is above it", relative.display());
        }
    }
    assert!(checked > 50, "only {checked} imports were found: this test reads nothing");
}

#[test]
fn every_route_has_its_rows_in_the_table_of_personas() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let routes = fs::read_to_string(root.join("src/http/v2/mod.rs")).unwrap();
    let table = fs::read_to_string(root.join("tests/api/routes.rs")).unwrap();
    let mut checked = 0;
    for row in routes.split("Resource::new(\"").skip(1) {
        let (path, methods) = row.split_once('"').unwrap();
        let path = path.replace("{image_id}", "{image}");
        for method in ["get", "post", "put", "delete", "patch"] {
            if methods.contains(&format!(".{method}(")) {
                checked += 1;
                let expected = format!("(\"{}\", \"{path}\", ", method.to_uppercase());
                assert!(table.contains(&expected), "{expected} is not in tests/api/routes.rs");
            }
        }
    }
    assert!(checked >= 13, "only {checked} routes were found: this test reads nothing");
}

#[test]
fn every_rule_that_a_service_asks_for_is_defined() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let defaults = fs::read_to_string(root.join("src/policy/defaults.rs")).unwrap();
    let mut checked = 0;
    for file in sources(&root.join("src/images")) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            // A rule is a text of lower-case words that ends so.
            for text in line.split('"').skip(1).step_by(2) {
                let is_word = text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                let is_rule = ["_image", "_images", "_member", "_members"].iter().any(|end| text.ends_with(end));
                if is_word && is_rule {
                    checked += 1;
                    assert!(defaults.contains(&format!("\"{text}\"")), "{}: {text}", file.display());
                }
            }
        }
    }
    assert!(checked >= 11, "only {checked} rules were found: this test reads nothing");
}

/// A migration's tables, with their columns, keys and indexes, in words that every engine's dialect comes down to.
fn schema(engine: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let text = files.collect::<String>().replace("CREATE INDEX CONCURRENTLY", "CREATE INDEX");
    let words = [
        ("BIGINT NOT NULL AUTO_INCREMENT", "NUMBERED"),
        ("INTEGER NOT NULL AUTO_INCREMENT", "NUMBERED"),
        ("BIGSERIAL", "NUMBERED"),
        ("SERIAL", "NUMBERED"),
        ("BIGINT", "INTEGER"),
        ("TIMESTAMP", "DATETIME"),
        ("DEFAULT FALSE", "DEFAULT 0"),
        ("image_visibility", "VISIBILITY"),
        ("ENUM('private', 'public', 'shared', 'community')", "VISIBILITY"),
        ("VARCHAR(9)", "VISIBILITY"),
    ];
    let mut table = "";
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim().trim_end_matches([',', ';']);
        if let Some(rest) = line.strip_prefix("CREATE TABLE ") {
            table = rest.split(' ').next().unwrap();
        } else if let Some(rest) = line.strip_prefix("CREATE INDEX ") {
            let (name, on) = rest.split_once(" ON ").unwrap();
            let (table, columns) = on.split_once(' ').unwrap();
            found.push(format!("{table}: INDEX {name} {columns}"));
        } else if line.starts_with(|c: char| c.is_ascii_lowercase())
            || ["PRIMARY KEY", "CONSTRAINT ", "FOREIGN KEY", "INDEX "].iter().any(|start| line.starts_with(start))
        {
            // SQLite numbers the rows of an integer key by itself; checks of booleans are for engines without them.
            let line = words.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
            let numbered = ["id INTEGER NOT NULL", "node_reference_id INTEGER NOT NULL"].contains(&line.as_str());
            let numbered = numbered && engine == "sqlite" && !(table == "cached_images" && line.starts_with("node"));
            let line = if numbered { line.replace("INTEGER NOT NULL", "NUMBERED") } else { line };
            if !line.contains("CHECK (") {
                found.push(format!("{table}: {line}"));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_schema_is_one_in_three_dialects() {
    let sqlite = schema("sqlite");
    assert!(sqlite.len() > 150, "only {} parts were found: this test reads nothing", sqlite.len());
    assert_eq!(sqlite, schema("postgres"));
    // MySQL has no indexes of some rows alone: there, they are of all.
    let whole: Vec<_> = sqlite.iter().map(|part| part.split(" WHERE ").next().unwrap_or_default()).collect();
    assert_eq!(whole, schema("mysql"));
}
