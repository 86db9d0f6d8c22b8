//! Files of metadata definitions: loaded, exported and removed, by Glimpse and by Glance's own `glance-manage`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use sqlx::Executor as _;
use tempfile::TempDir;

use crate::{
    side_by_side::empty_database,
    support::{Client, Database, Glance, TestServer},
};

/// The files that are part of Glance.
fn shipped() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-services/etc/glance/metadefs");
    assert!(path.is_dir(), "run tests/install first");
    path
}

/// Runs Glimpse on a database, under this name.
fn run(name: &str, database: &Database, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let (config, link) = (dir.path().join("glance-api.conf"), dir.path().join(name));
    let url = database.url.replace('$', "$$");
    fs::write(&config, format!("[DEFAULT]\nmetadata_source_path = /nowhere\n[database]\nconnection = {url}\n"))
        .unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    Command::new(link).env_clear().arg("--config-file").arg(&config).args(arguments).output().unwrap()
}

/// The exit code, and the messages of the log without times and places.
fn seen(output: &Output) -> (Option<i32>, Vec<String>) {
    let text = String::from_utf8_lossy(&output.stderr);
    let message = |line: &str| {
        let ours = || ["INFO ", "WARN ", "ERROR "].iter().find_map(|level| line.split_once(level));
        let line = line.split_once("[-] ").or_else(ours)?.1;
        Some(line.split(" due to: ").next()?.trim().to_owned())
    };
    let mut messages: Vec<String> = text.lines().filter_map(message).collect();
    messages.sort();
    (output.status.code(), messages)
}

async fn synced() -> (TempDir, Database) {
    let (dir, database) = empty_database().await;
    let output = run("glimpse", &database, &["db", "sync"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (dir, database)
}

/// Everything that a caller sees, without the values of times. In Glance, the order of associations and objects depends on the engine.
async fn catalogue(client: &Client) -> BTreeMap<String, Value> {
    let listed = client.get("/v2/metadefs/namespaces?limit=1000").await.expect(200).json();
    let mut catalogue = BTreeMap::new();
    for namespace in listed["namespaces"].as_array().unwrap() {
        let name = namespace["namespace"].as_str().unwrap();
        let mut shown = client.get(&format!("/v2/metadefs/namespaces/{name}")).await.expect(200).json();
        hide_times(&mut shown);
        for name in ["resource_type_associations", "objects"] {
            if let Some(items) = shown.get_mut(name).and_then(Value::as_array_mut) {
                items.sort_by_key(|item| item["name"].to_string());
            }
        }
        for tag in shown["tags"].as_array().into_iter().flatten() {
            let path = format!("/v2/metadefs/namespaces/{name}/tags/{}", tag["name"].as_str().unwrap());
            let mut tag = client.get(&path).await.expect(200).json();
            hide_times(&mut tag);
            catalogue.insert(path, tag);
        }
        catalogue.insert(name.to_owned(), shown);
    }
    let mut types = client.get("/v2/metadefs/resource_types").await.expect(200).json();
    hide_times(&mut types);
    types["resource_types"].as_array_mut().unwrap().sort_by_key(|item| item["name"].to_string());
    catalogue.insert("resource types".to_owned(), types);
    catalogue
}

/// The namespaces of a catalogue.
fn namespaces(catalogue: &BTreeMap<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    catalogue.iter().filter(|(_, value)| value.get("namespace").is_some())
}

/// Replaces the values of times, so that only their presence can be compared.
fn hide_times(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match name.as_str() {
                    "created_at" | "updated_at" => *value = json!("a time"),
                    _ => hide_times(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_times),
        _ => {}
    }
}

#[tokio::test]
async fn the_files_that_glance_ships_are_loaded_the_same_and_served_by_either_program() {
    let ((_ours, ours), (_theirs, theirs)) = (synced().await, synced().await);
    let path = shipped();
    let path = path.to_str().unwrap();
    let output = run("glance-manage", &ours, &["db", "load_metadefs", "--path", path]);
    let expected = Glance::try_manage(&theirs, &["db", "load_metadefs", "--path", path]).await;
    assert_eq!(seen(&output).0, Some(0));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches("loaded to database.").count(), 32, "{text}");
    assert!(!text.contains("WARN") && !text.contains("ERROR"), "{text}");
    assert!(expected.status.success());

    let s = TestServer::builder().database(ours.clone()).start().await;
    let t = TestServer::builder().database(theirs.clone()).start().await;
    let (by_us, by_glance) = (catalogue(&s.admin()).await, catalogue(&t.admin()).await);
    assert_eq!(namespaces(&by_us).count(), 32);
    assert_eq!(by_us, by_glance);
    let glance = Glance::start_synced(&ours).await;
    assert_eq!(by_us, catalogue(&glance.admin()).await);
    for client in [glance.reader("p"), s.reader("p")] {
        let types = client.get("/v2/metadefs/resource_types").await.expect(200).json();
        assert!(types["resource_types"].as_array().unwrap().len() > 5, "{types}");
        assert_eq!(namespaces(&catalogue(&client).await).count(), 30);
    }
}

#[tokio::test]
async fn what_is_exported_is_what_was_loaded() {
    let (dir, database) = synced().await;
    let path = shipped();
    let load = |path: &Path| {
        let output = run("glimpse", &database, &["metadefs", "load", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    load(&path);
    let read = |path: &Path| {
        let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "json"));
        let definition = |file: PathBuf| {
            let mut definition: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
            // A file may leave these out.
            for (name, default) in [
                ("visibility", Value::Null),
                ("objects", json!([])),
                ("properties", json!({})),
                ("tags", json!([])),
                ("resource_type_associations", json!([])),
            ] {
                if definition.get(name).is_none() {
                    definition[name] = default;
                }
            }
            for association in definition["resource_type_associations"].as_array_mut().unwrap() {
                association["prefix"] = association["prefix"].take();
                association["properties_target"] = association["properties_target"].take();
            }
            for list in ["objects", "resource_type_associations"] {
                definition[list].as_array_mut().unwrap().sort_by_key(|item| item["name"].to_string());
            }
            (definition["namespace"].as_str().unwrap().to_owned(), definition)
        };
        files.map(definition).collect::<BTreeMap<String, Value>>()
    };
    let exported = dir.path().join("exported");
    fs::create_dir(&exported).unwrap();
    let export = || {
        let output = run("glance-manage", &database, &["db", "export_metadefs", "--path", exported.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let first = export();
    assert!(exported.join("CommonImageProperties.json").is_file(), "{first}");
    let (before, after) = (read(&path), read(&exported));
    assert_eq!(before.len(), 32);
    for (name, definition) in &before {
        assert_eq!(&after[name], definition, "{name}");
    }
    let output = run("glimpse", &database, &["metadefs", "unload"]);
    assert!(output.status.success());
    load(&exported);
    assert!(export().contains("Overwriting: "));
    assert_eq!(read(&exported), after);
}

/// Two files for each case: what is there, and what is loaded.
#[tokio::test]
async fn existing_namespaces_are_treated_as_by_glance() {
    let ((dir, ours), (_theirs, theirs)) = (synced().await, synced().await);
    let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let path = dir.path().join("metadefs");
    fs::create_dir(&path).unwrap();
    let old = json!({
        "namespace": "n", "display_name": "N", "description": "old", "visibility": "public", "protected": false,
        "resource_type_associations": [{"name": "a", "prefix": "old"}, {"name": "b"}],
        "properties": {"p": {"title": "old", "type": "string"}, "q": {"title": "old", "type": "string", "enum": ["é"]}},
        "objects": [{"name": "o", "description": "old", "properties": {"p": {"title": "old", "type": "string"}}}],
        "tags": [{"name": "t"}, {"name": "t"}, {"name": "v"}],
    });
    let new = json!({
        "namespace": "n", "display_name": "New", "visibility": "private", "owner": "someone",
        "resource_type_associations": [{"name": "a", "prefix": "new"}, {"name": "c"}],
        "properties": {"p": {"title": "new", "type": "integer", "minimum": 1}, "r": {"title": "new", "type": "string"}},
        "objects": [{"name": "o", "properties": {}}, {"name": "o2", "description": "new", "properties": {}}],
        "tags": [{"name": "t"}, {"name": "u"}],
    });
    let s = TestServer::builder().database(ours.clone()).start().await;
    let t = TestServer::builder().database(theirs.clone()).start().await;
    let path = path.to_str().unwrap().to_owned();
    for arguments in [
        &["db", "load_metadefs", "--path", &path][..],
        &["db", "load_metadefs", &path, "--merge"],
        &["db", "load_metadefs", "--path", &path, "--merge", "--prefer_new"],
        &["db", "load_metadefs", "--path", &path, "--merge", "--overwrite"],
        &["db_load_metadefs", &path],
        &["db_load_metadefs", &path, "yes"],
        &["db_load_metadefs", &path, "yes", "yes"],
        &["db_load_metadefs", &path, "yes", "", "yes"],
        &["db", "load_metadefs", "--path", &path, "--prefer_new"],
        &["db", "load_metadefs", "--path", &path, "--overwrite"],
        &["db", "load_metadefs", "--path", &path, "--merge", "--overwrite", "--prefer_new"],
    ] {
        for (database, manage) in [(&ours, false), (&theirs, true)] {
            file("metadefs/n.json", &old.to_string());
            let first: &[&str] = &["db", "load_metadefs", "--path", &path];
            for command in [&["db", "unload_metadefs"][..], first] {
                let output = if manage {
                    Glance::try_manage(database, command).await
                } else {
                    run("glance-manage", database, command)
                };
                assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        file("metadefs/n.json", &new.to_string());
        let (expected, output) = (Glance::try_manage(&theirs, arguments).await, run("glance-manage", &ours, arguments));
        assert_eq!(seen(&output), seen(&expected), "{arguments:?}");
        assert_eq!(catalogue(&s.admin()).await, catalogue(&t.admin()).await, "{arguments:?}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_loaded_are_named_and_change_nothing() {
    let (dir, database) = synced().await;
    let file = |name: &str, text: &str| fs::write(dir.path().join("metadefs").join(name), text).unwrap();
    fs::create_dir(dir.path().join("metadefs")).unwrap();
    let path = dir.path().join("metadefs");
    let path = path.to_str().unwrap();
    let load = |name: &str, arguments: &[&str]| {
        let output = run(name, &database, arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (name, arguments, code, says) in [
        ("glimpse", &["metadefs", "load", "/nowhere"][..], 1, "/nowhere: No such file"),
        ("glance-manage", &["db", "load_metadefs"], 0, "/nowhere: No such file"),
        ("glance-manage", &["db", "load_metadefs", "--path", ""], 0, "/nowhere: No such file"),
        ("glance-manage", &["db_load_metadefs", "", "yes"], 0, "/nowhere: No such file"),
        ("glimpse", &["metadefs", "load", path], 1, "Json schema files not found in"),
        ("glimpse", &["metadefs", "load", path, "--overwrite"], 2, "--merge"),
        ("glimpse", &["metadefs", "export", "/nowhere"], 1, "/nowhere is not a directory"),
        ("glance-manage", &["db", "load_metadefs", "a", "b"], 1, "unexpected argument 'b'; nothing was done"),
        ("glance-manage", &["db", "unload_metadefs", "a"], 1, "unexpected argument 'a'; nothing was done"),
        ("glance-manage", &["db_unload_metadefs", "a"], 2, "unexpected argument"),
    ] {
        let (found, error) = load(name, arguments);
        assert!(found == Some(code) && error.contains(says), "{arguments:?}: {found:?} {error}");
    }
    file("1.json", "{");
    let object = |required: Vec<String>| json!({"namespace": "n", "objects": [{"name": "o", "required": required}]});
    let faults = [
        ("1.json", "{".to_owned(), "EOF while parsing an object"),
        ("2.json", object(vec!["a,b".to_owned()]).to_string(), "must not contain a comma: 'a,b'"),
        ("3.json", json!({"namespace": "x".repeat(81)}).to_string(), "A namespace's name has more than 80 characters."),
        (
            "4.json",
            json!({"namespace": "n", "visibility": "shared"}).to_string(),
            "the visibility must be public or private, and is \"shared\"",
        ),
        ("5.json", json!({"namespace": "n", "properties": {"p": 5}}).to_string(), "property \"p\" is not an object"),
        ("6.json", object(vec!["x".repeat(70_000)]).to_string(), "required properties has more than 65535 bytes."),
        (
            "7.json",
            json!({"namespace": "n", "owner": "x".repeat(256)}).to_string(),
            "owner has more than 255 characters.",
        ),
        ("8.json", json!({"namespace": "n", "owner": "a\0b"}).to_string(), "can't contain NUL characters."),
    ];
    for (name, text, _) in &faults {
        file(name, text);
    }
    file("good.json", "{\"namespace\": \"good\"}");
    file("9.txt", "{");
    let (code, error) = load("glimpse", &["metadefs", "load", path]);
    assert_eq!((code, error.matches("Failed to parse json file").count()), (Some(1), faults.len()), "{error}");
    for (name, _, says) in &faults {
        let line = error.lines().find(|line| line.contains(&format!("/{name} while"))).unwrap();
        assert!(line.contains(says), "{line}");
    }
    assert!(error.contains("good.json loaded to database."), "{error}");
    let rows = database.pairs("SELECT namespace, owner FROM metadef_namespaces").await;
    assert_eq!(rows, [("good".to_owned(), "admin".to_owned())]);
    fs::remove_file(dir.path().join("metadefs/good.json")).unwrap();
    fs::create_dir(dir.path().join("metadefs/good.json")).unwrap();
    let (code, error) = load("glimpse", &["metadefs", "export", path]);
    assert!(code == Some(1) && error.contains("good.json: Is a directory"), "{error}");
}

#[tokio::test]
async fn namespaces_with_the_same_display_name_are_exported_to_different_files() {
    let (dir, database) = synced().await;
    let s = TestServer::builder().database(database.clone()).start().await;
    let long = "長".repeat(80);
    let long_again = format!("{}短", "長".repeat(79));
    for (name, display_name) in [
        ("a::1", "Same name"),
        ("b::2", "same_name"),
        ("c", ""),
        ("::", ""),
        ("..", ""),
        ("first", "1"),
        (&long, &long),
        (&long_again, &long),
    ] {
        let body = json!({"namespace": name, "display_name": display_name, "objects": [{"name": "o", "required": ["x", "y"]}]});
        s.admin().post("/v2/metadefs/namespaces", &body).await.expect(201);
    }
    let output = run("glimpse", &database, &["metadefs", "export", dir.path().to_str().unwrap()]);
    assert!(output.status.success());
    let cut = "長".repeat(33);
    for (file, namespace) in [
        ("Samename", "a::1"),
        ("samenameb2", "b::2"),
        ("c", "c"),
        ("-1", "::"),
        ("-2", ".."),
        ("1", "first"),
        (&cut, &long),
        (&format!("{cut}{cut}"), &long_again),
    ] {
        let text = fs::read_to_string(dir.path().join(format!("{file}.json"))).unwrap();
        let exported: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&exported["namespace"], &exported["objects"][0]["required"]),
            (&json!(namespace), &json!(["x", "y"]))
        );
    }
}

/// Glance would lose both.
#[tokio::test]
async fn owners_and_required_names_survive_an_export_and_files_without_them() {
    let (dir, database) = synced().await;
    let s = TestServer::builder().database(database.clone()).start().await;
    let owner = s.member("p1");
    let body = json!({"namespace": "n", "owner": "p1", "objects": [{"name": "o", "required": ["x", "y"]}]});
    s.admin().post("/v2/metadefs/namespaces", &body).await.expect(201);
    let path = dir.path().join("exported");
    fs::create_dir(&path).unwrap();
    let path = path.to_str().unwrap();
    let required =
        async || owner.get("/v2/metadefs/namespaces/n/objects/o").await.expect(200).json()["required"].take();
    for arguments in [&["metadefs", "export", path][..], &["metadefs", "unload"], &["metadefs", "load", path]] {
        let output = run("glimpse", &database, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(required().await, json!(["x", "y"]));
    let file = json!({"namespace": "n", "owner": "p1", "objects": [{"name": "o", "description": "new"}]});
    fs::write(dir.path().join("exported/n.json"), file.to_string()).unwrap();
    let output = run("glance-manage", &database, &["db", "load_metadefs", path, "--merge", "--prefer_new"]);
    assert!(output.status.success());
    let object = owner.get("/v2/metadefs/namespaces/n/objects/o").await.expect(200).json();
    assert_eq!((&object["description"], &object["required"]), (&json!("new"), &json!(["x", "y"])));
}

/// A tool that loads files must learn that nothing was loaded.
#[tokio::test]
async fn commands_fail_if_the_database_does() {
    let (_dir, database) = empty_database().await;
    let path = shipped();
    for (name, arguments) in [
        ("glimpse", &["metadefs", "load"][..]),
        ("glance-manage", &["db", "load_metadefs", path.to_str().unwrap()]),
        ("glance-manage", &["db", "unload_metadefs"]),
        ("glance-manage", &["db", "export_metadefs", path.to_str().unwrap()]),
    ] {
        let output = run(name, &database, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains("it is empty; run `glimpse db sync`"), "{error}");
    }
    let theirs = Glance::try_manage(&database, &["db", "load_metadefs", path.to_str().unwrap()]).await;
    assert_eq!(theirs.status.code(), Some(1));
    let (_dir, database) = synced().await;
    database.connect().await.execute("DROP TABLE metadef_tags").await.unwrap();
    let output = run("glance-manage", &database, &["db", "load_metadefs", path.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("metadef_tags"), "{error}");
    assert!(!error.contains("Failed to parse"), "{error}");
}

#[tokio::test]
async fn several_processes_can_load_the_same_files_concurrently() {
    let (_dir, database) = synced().await;
    let path = shipped();
    let path = path.to_str().unwrap();
    for arguments in [&["db", "load_metadefs", path][..], &["db", "load_metadefs", path, "--merge", "--overwrite"]] {
        let outputs: Vec<Output> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| run("glance-manage", &database, arguments))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        for output in outputs {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !error.contains("ERROR") && !error.contains("WARN"), "{error}");
            assert!(error.contains("Metadata loading finished"), "{error}");
        }
    }
    let s = TestServer::builder().database(database).start().await;
    assert_eq!(namespaces(&catalogue(&s.admin()).await).count(), 32);
}

/// Tests on a database server: the profiles postgres and mysql run them.
mod on_a_server {
    use super::*;

    /// MySQL's unique keys ignore case, and so does Glance's loader there.
    #[tokio::test]
    async fn names_of_files_are_compared_as_by_the_engine() {
        let ((dir, ours), (_theirs, theirs)) = (synced().await, synced().await);
        let path = dir.path().join("n.json");
        let s = TestServer::builder().database(ours.clone()).start().await;
        let t = TestServer::builder().database(theirs.clone()).start().await;
        let path = path.to_str().unwrap().to_owned();
        let content = |name: &str, title: &str| {
            json!({
                "resource_type_associations": [{"name": name, "prefix": title}], "tags": [{"name": name}],
                "properties": {name: {"title": title, "type": "string"}},
                "objects": [{"name": name, "description": title, "properties": {}}],
            })
        };
        let file = |namespace: &str, name: &str, title: &str| {
            let mut file = content(name, title);
            file["namespace"] = json!(namespace);
            file["display_name"] = json!(title);
            file
        };
        let mut both = file("both", "A", "1");
        for (part, more) in content("a", "2").as_object().unwrap() {
            match (&mut both[part], more) {
                (Value::Array(items), Value::Array(more)) => items.extend(more.iter().cloned()),
                (Value::Object(items), Value::Object(more)) => items.extend(more.clone()),
                _ => unreachable!(),
            }
        }
        for (file, options) in [
            (file("n", "a", "1"), &[][..]),
            (file("N", "b", "2"), &[]),
            (file("N", "A", "3"), &["--merge"]),
            (file("N", "A", "4"), &["--merge", "--prefer_new"]),
            (both.clone(), &["--merge"]),
            (both, &["--merge", "--prefer_new"]),
        ] {
            fs::write(&path, file.to_string()).unwrap();
            let arguments = [&["db", "load_metadefs", "--path", &path], options].concat();
            let (output, expected) =
                (run("glance-manage", &ours, &arguments), Glance::try_manage(&theirs, &arguments).await);
            assert_eq!(seen(&output), seen(&expected), "{file} {options:?}");
            assert_eq!(catalogue(&s.admin()).await, catalogue(&t.admin()).await, "{file} {options:?}");
        }
    }
}

/// The first start of a standalone server loads them, too.
#[tokio::test]
async fn the_definitions_that_are_part_of_glimpse_are_valid_and_loaded_at_the_first_start() {
    let (_dir, database) = synced().await;
    let output = run("glimpse", &database, &["metadefs", "load"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let s = TestServer::builder().database(database).start().await;
    let loaded = catalogue(&s.reader("p")).await;
    assert_eq!(namespaces(&loaded).count(), 7);
    // Each of them can also be created by a request.
    for (_, namespace) in namespaces(&loaded) {
        let mut body = namespace.clone();
        body["namespace"] = json!(format!("{} again", body["namespace"].as_str().unwrap()));
        body.as_object_mut()
            .unwrap()
            .retain(|name, _| !["self", "schema", "created_at", "updated_at"].contains(&name.as_str()));
        s.admin().post("/v2/metadefs/namespaces", &body).await.expect(201);
    }
    let standalone = TestServer::builder().option("glimpse", "auth", "standalone").start().await;
    let rows = standalone.database.pairs("SELECT namespace, owner FROM metadef_namespaces").await;
    assert_eq!(rows.len(), 7, "{rows:?}");
}

/// The values that Nova 34 accepts of image properties and of a flavor's extra specs. With any other value, a server is not created.
const ACCEPTED_BY_NOVA: [(&str, &str); 33] = [
    (
        "hw_architecture hw_emulation_architecture",
        "alpha armv6 armv7l armv7b aarch64 cris i686 ia64 lm32 m68k microblaze microblazeel mips mipsel mips64 mips64el openrisc \
         parisc parisc64 ppc ppcle ppc64 ppc64le ppcemb s390 s390x sh4 sh4eb sparc sparc64 unicore32 x86_64 xtensa xtensaeb",
    ),
    ("hw_disk_bus hw_cdrom_bus hw_rescue_bus", "fdc ide sata scsi usb virtio xen lxc uml"),
    ("hw_cpu_policy hw:cpu_policy", "dedicated shared mixed"),
    ("hw_cpu_thread_policy hw:cpu_thread_policy", "prefer isolate require"),
    ("hw:emulator_threads_policy", "share isolate"),
    ("hw_ephemeral_encryption_format hw:ephemeral_encryption_format", "plain luks luksv2"),
    ("hw_firmware_type", "uefi bios"),
    ("hw_input_bus", "usb virtio"),
    ("hw_maxphysaddr_mode hw:maxphysaddr_mode", "passthrough emulate"),
    ("hw_mem_encryption_model hw:mem_encryption_model", "amd-sev amd-sev-es amd-sev-snp intel-tdx"),
    ("hw_pci_numa_affinity_policy hw:pci_numa_affinity_policy", "required legacy preferred socket"),
    ("hw_pointer_model", "usbtablet"),
    ("hw_rescue_device", "cdrom disk floppy fs lun"),
    ("hw_rng_model", "virtio"),
    ("hw_scsi_model", "buslogic ibmvscsi lsilogic lsisas1068 lsisas1078 virtio-scsi vmpvscsi"),
    ("hw_sound_model hw:sound_model", "sb16 es1370 pcspk ac97 ich6 ich9 usb virtio"),
    ("hw_tpm_model hw:tpm_model", "tpm-tis tpm-crb"),
    ("hw_tpm_version hw:tpm_version", "1.2 2.0"),
    ("hw:tpm_secret_security", "user host deployment"),
    ("hw_usb_model hw:usb_model", "none nec-xhci qemu-xhci"),
    ("hw_video_model", "cirrus qxl vga vmvga xen virtio gop none bochs"),
    ("hw_vif_model", "virtio ne2k_pci pcnet rtl8139 e1000 e1000e netfront spapr-vlan lan9118 sriov vmxnet vmxnet3 igb"),
    ("hw_viommu_model hw:viommu_model", "intel smmuv3 virtio auto"),
    ("hw_vm_mode", "hvm xen uml exe"),
    ("hw_watchdog_action hw:watchdog_action", "none pause poweroff reset disabled"),
    ("hw_qemu_guest_agent os_require_quiesce", "yes no"),
    ("img_config_drive", "optional mandatory"),
    (
        "img_hv_type",
        "baremetal bhyve docker fake hyperv ironic kqemu kvm lxc lxd openvz parallels vz phyp qemu test uml vbox vmware xen zvm prsm",
    ),
    ("img_signature_hash_method", "SHA-224 SHA-256 SHA-384 SHA-512"),
    (
        "img_signature_key_type",
        "DSA ECC_SECP384R1 ECC_SECP521R1 ECC_SECT409K1 ECC_SECT409R1 ECC_SECT571K1 ECC_SECT571R1 RSA-PSS",
    ),
    ("os_secure_boot", "required disabled optional"),
    ("os_type", "linux windows"),
    // Of Ironic and Cinder.
    ("img_type cinder_encryption_key_deletion_policy", "partition whole-disk on_image_deletion do_not_delete"),
];

#[test]
fn the_definitions_that_are_part_of_glimpse_offer_only_what_nova_ironic_and_cinder_accept() {
    let accepted = |name: &str| -> Vec<&str> {
        let found = ACCEPTED_BY_NOVA.iter().find(|(names, _)| names.split(' ').any(|known| known == name));
        found.unwrap_or_else(|| panic!("{name} has an enum, but is not in the table")).1.split(' ').collect()
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/metadefs");
    let mut checked = 0;
    for entry in fs::read_dir(path).unwrap() {
        let definition: Value = serde_json::from_str(&fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
        let types = definition["resource_type_associations"].as_array().unwrap();
        let prefix = types[0]["prefix"].as_str().unwrap_or_default();
        for (name, property) in definition["properties"].as_object().unwrap() {
            assert!(property["title"].is_string() && property["description"].is_string(), "{name}");
            let Some(values) = property.get("enum") else { continue };
            let values: Vec<&str> = values.as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
            let name = format!("{prefix}{name}");
            if name.starts_with("trait:") {
                // Of an image, Nova reads only which traits are required.
                let is_flavor = types.iter().all(|associated| associated["name"] == "OS::Nova::Flavor");
                assert_eq!(values, if is_flavor { &["required", "forbidden"][..] } else { &["required"] }, "{name}");
            } else {
                let accepted = accepted(&name);
                assert!(values.iter().all(|value| accepted.contains(value)), "{name}: {values:?}");
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}
