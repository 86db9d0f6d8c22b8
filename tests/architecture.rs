//! Rules that concern the source tree as a whole: which module is allowed to use which, how policy rules are named, that every route
//! has its rows in the table of personas, and that the three engines have the same schema.
//!
//! `tree` checks references between modules. It reads every file of `src` completely, test modules included, and finds references in
//! `use`, in expressions, in macros and in attributes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "architecture/policy.rs"]
mod policy;
#[path = "architecture/source.rs"]
mod source;
#[path = "architecture/tree.rs"]
mod tree;

use std::{fs, path::Path};

use self::tree::Layout;

/// A top-level module is allowed to use the modules in the rows below its own, and no others. There are no circles among top-level
/// modules, and none among the modules inside a folder.
const LAYOUT: Layout<'_> = Layout {
    rows: &[
        // The program, and the crate's list of modules.
        &["main", "lib"],
        // The commands of the program.
        &["cli"],
        // Listening, connections, start and stop.
        &["server"],
        // Routes, middleware and handlers: requests become calls, and results become responses.
        &["http"],
        // Work that no request waits for.
        &["background"],
        // Operations on the records of images, on metadata definitions and on tasks; imports.
        &["images", "import", "metadefs", "tasks"],
        // Operations on the bytes of images: upload, download, placement, removal, recovery.
        &["data"],
        // Access rules: what a caller is allowed to see and do.
        &["access"],
        // The application: all parts below, joined once at start.
        &["app"],
        // The process with its heartbeat id; quotas and limits of projects; the image cache.
        &["process", "limits", "cache"],
        // Queries, written once for the three engines.
        &["db"],
        // Drivers for the places where bytes are stored.
        &["store"],
        // Authentication of callers.
        &["auth"],
        // Domain types, without database and HTTP.
        &["model"],
        // Mechanisms that do not know the domain.
        &["policy", "schemas", "stream", "egress", "keystone", "lock_file", "log"],
        // Vocabulary of all modules, and modules that depend on nothing.
        &["config", "inspect", "error", "context"],
        // Python's notation, which options, requests and messages contain.
        &["python"],
    ],
    // Pairs in the same row: the first module uses the second one for this reason.
    siblings: &[("import", "images", "a task of the type import creates its image")],
    // Pairs that the rows would allow: the first module does not use the second one for this reason.
    forbidden: &[
        ("http", "db", "a service owns the transaction"),
        ("db", "context", "the records are the same for every caller"),
    ],
    crate_name: "glimpse",
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn modules_use_only_modules_below_them() {
    let (violations, checked) = tree::check(root(), &LAYOUT);
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    assert!(checked > 200, "only {checked} references were found: this test reads nothing");
}

#[test]
fn a_violation_that_is_added_to_the_source_tree_is_reported() {
    let copy = tempfile::tempdir().unwrap();
    let src = root().join("src");
    for file in tree::files(&src) {
        let path = copy.path().join("src").join(file.strip_prefix(&src).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(file, path).unwrap();
    }
    let before = tree::check(copy.path(), &LAYOUT).0;
    for (path, text, expected) in [
        ("store/mod.rs", "use crate::http::v2;", &["store uses http, which is in a row above its own"][..]),
        ("policy/mod.rs", "mod more { use crate::stream::Tap; }", &["policy uses stream, a sibling in its row"]),
        ("stream/mod.rs", "fn f() { vec![super::app::App] }", &["stream uses app, which", "circle in src: app uses"]),
        ("stream/chunk.rs", "use super::Tap;", &["circle in src/stream: chunk uses tap"]),
        ("attic.rs", "", &["module attic is in no row"]),
    ] {
        let path = copy.path().join("src").join(path);
        let original = fs::read_to_string(&path).ok();
        fs::write(&path, original.clone().unwrap_or_default() + text).unwrap();
        let mut after = tree::check(copy.path(), &LAYOUT).0;
        after.retain(|violation| !before.contains(violation));
        for expected in expected {
            assert!(after.iter().any(|violation| violation.contains(expected)), "{text}: {after:?}");
        }
        match original {
            Some(original) => fs::write(path, original).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
}

#[test]
fn policy_rules_are_constants_and_each_constant_is_used() {
    let (violations, checked) = policy::check(root());
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    assert!(checked >= 20, "only {checked} constants were found: this test reads nothing");
}

#[test]
fn every_route_has_its_rows_in_the_table_of_personas() {
    let root = root();
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

/// Files and functions are written as `images/list.rs` and `images/list.rs::list`, relative to `src` or to the project's root.
#[test]
fn files_and_functions_that_the_documents_name_exist() {
    let docs = root().join("docs");
    let adrs = fs::read_dir(docs.join("adr")).unwrap().map(|entry| entry.unwrap().path());
    let mut checked = 0;
    for document in adrs.chain(["architecture.md", "adding-an-endpoint.md"].map(|name| docs.join(name))) {
        let text = fs::read_to_string(&document).unwrap();
        for name in text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && !name.contains(['<', ' '])) {
            let (file, function) =
                name.split_once("::").map_or((name, None), |(file, function)| (file, Some(function)));
            if !file.ends_with(".rs") {
                continue;
            }
            checked += 1;
            let candidates = [root().join("src").join(file), root().join(file)];
            let Some(source) = candidates.iter().find_map(|path| fs::read_to_string(path).ok()) else {
                panic!("{}: there is no {file}", document.display());
            };
            let is_there = function.is_none_or(|function| source.contains(&format!("fn {function}")));
            assert!(is_there, "{}: there is no {name}", document.display());
        }
    }
    assert!(checked >= 30, "only {checked} files were found: this test reads nothing");
}

/// A migration's tables, with their columns, keys and indexes, in words that every engine's dialect comes down to.
fn schema(engine: &str) -> Vec<String> {
    let folder = root().join("migrations").join(engine);
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
            let rest = rest.trim_start_matches("IF NOT EXISTS ");
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
    // Only Galera needs a table of locks: docs/adr/0002.
    let (locks, mysql): (Vec<_>, Vec<_>) =
        schema("mysql").into_iter().partition(|part| part.starts_with("glimpse_image_locks: "));
    assert_eq!(whole, mysql);
    assert!(!locks.is_empty());
}
