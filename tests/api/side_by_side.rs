//! A real Glance and Glimpse on one database, one after the other and concurrently.

use std::{collections::BTreeMap, fs, process::Output, time::Duration};

use serde_json::{Value, json};

use crate::support::{Database, Engine, Glance, TestServer, program};

/// Runs `glimpse db …` on a database.
fn db(database: &Database, command: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("glance-api.conf");
    fs::write(&config, format!("[database]\nconnection = {}\n", database.url)).unwrap();
    program().arg("--config-file").arg(&config).args(["db", command]).output().unwrap()
}

#[track_caller]
fn sync(database: &Database) {
    let output = db(database, "sync");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The structure of Glance's tables, as the engine describes it: columns and indexes, as sorted texts, without
/// Glimpse's own indexes.
pub(crate) async fn described(database: &Database) -> BTreeMap<String, Vec<String>> {
    let mut tables = described_in_full(database).await;
    tables.retain(|table, _| !table.contains("glimpse_"));
    tables.values_mut().for_each(|parts| parts.retain(|part| !part.contains("glimpse_")));
    tables
}

/// The structure of all tables.
async fn described_in_full(database: &Database) -> BTreeMap<String, Vec<String>> {
    let queries: &[&str] = match database.engine {
        Engine::Sqlite => &[
            "SELECT m.name, 'column ' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || COALESCE(c.dflt_value, '-') \
             || ' ' || c.pk FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'",
            "SELECT m.name, 'index ' || CASE WHEN i.origin = 'c' THEN i.name ELSE '' END || ' ' || i.\"unique\" || ' ' \
             || (SELECT GROUP_CONCAT(x.name) FROM pragma_index_info(i.name) x) \
             FROM sqlite_master m JOIN pragma_index_list(m.name) i WHERE m.type = 'table'",
            "SELECT m.name, 'foreign key ' || f.\"from\" || ' ' || f.\"table\" || ' ' || f.\"to\" \
             FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'",
        ],
        Engine::Postgres => &[
            "SELECT table_name::text, 'column ' || column_name || ' ' || udt_name || ' ' \
             || COALESCE(character_maximum_length::text, '-') || ' ' || is_nullable || ' ' || COALESCE(column_default, '-') \
             FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT tablename::text, 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "SELECT conrelid::regclass::text, 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) \
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        ],
        Engine::MySql => &[
            "SELECT CAST(table_name AS CHAR), CAST(CONCAT('column ', column_name, ' ', column_type, ' ', is_nullable, ' ', \
             COALESCE(column_default, '-'), ' ', extra, ' ', COALESCE(collation_name, '-')) AS CHAR) \
             FROM information_schema.columns WHERE table_schema = DATABASE()",
            "SELECT CAST(table_name AS CHAR), CAST(CONCAT('index ', index_name, ' ', non_unique, ' ', \
             GROUP_CONCAT(column_name ORDER BY seq_in_index)) AS CHAR) FROM information_schema.statistics \
             WHERE table_schema = DATABASE() GROUP BY table_name, index_name, non_unique",
            "SELECT CAST(table_name AS CHAR), CAST(CONCAT('foreign key ', column_name, ' ', referenced_table_name, ' ', \
             referenced_column_name) AS CHAR) FROM information_schema.key_column_usage \
             WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL",
        ],
    };
    let mut tables = BTreeMap::<String, Vec<String>>::new();
    for query in queries {
        for (table, part) in database.pairs(query).await {
            tables.entry(table).or_default().push(part);
        }
    }
    tables.values_mut().for_each(|parts| parts.sort());
    tables
}

/// Glimpse's indexes on Glance's tables, with their tables.
async fn our_indexes(database: &Database) -> Vec<(String, String)> {
    let query = match database.engine {
        Engine::Sqlite => "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND name LIKE 'glimpse%'",
        Engine::Postgres => "SELECT tablename::text, indexname::text FROM pg_indexes WHERE indexname LIKE 'glimpse%'",
        Engine::MySql => {
            "SELECT DISTINCT CAST(table_name AS CHAR), CAST(index_name AS CHAR) FROM information_schema.statistics \
             WHERE table_schema = DATABASE() AND index_name LIKE 'glimpse%'"
        }
    };
    let mut indexes = database.pairs(query).await;
    indexes.retain(|(table, _)| !table.contains("glimpse_"));
    indexes.sort();
    indexes
}

/// The indexes that `db sync` adds.
const OUR_INDEXES: [(&str, &str); 8] = [
    ("image_locations", "glimpse_image_locations_pending_delete"),
    ("image_members", "glimpse_image_members_shared"),
    ("image_tags", "glimpse_image_tags_tagged"),
    ("images", "glimpse_images_listed"),
    ("images", "glimpse_images_named"),
    ("images", "glimpse_images_owned"),
    ("images", "glimpse_images_owned_named"),
    ("images", "glimpse_images_pending_delete"),
];

#[track_caller]
fn are_ours(indexes: &[(String, String)]) {
    let indexes: Vec<_> = indexes.iter().map(|(table, index)| (table.as_str(), index.as_str())).collect();
    assert_eq!(indexes, OUR_INDEXES);
}

pub(crate) async fn empty_database() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    (dir, database)
}

#[tokio::test]
async fn the_schema_is_glances() {
    let ((_ours, ours), (_theirs, theirs)) = (empty_database().await, empty_database().await);
    sync(&ours);
    Glance::sync(&theirs).await;
    are_ours(&our_indexes(&ours).await);
    let (ours, theirs) = (described(&ours).await, described(&theirs).await);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    assert!(ours.len() >= 16 && ours.values().map(Vec::len).sum::<usize>() > 150, "this reads too little: {ours:#?}");
    for (table, parts) in &ours {
        assert_eq!(parts, &theirs[table], "{table}");
    }
}

/// The revisions that Glance's tools see, in their order.
pub(crate) async fn heads(database: &Database) -> Vec<String> {
    let rows = database.pairs("SELECT version_num, version_num FROM alembic_version ORDER BY version_num").await;
    rows.into_iter().map(|(head, _)| head).collect()
}

/// The three steps of a rolling upgrade, during which servers can start.
#[tokio::test]
async fn expanding_migrating_and_contracting_results_in_the_same_database_as_a_sync() {
    let (_synced, synced) = empty_database().await;
    sync(&synced);
    for heads_before in
        [&[][..], &["zed_contract01"], &["2023_1_contract01", "2024_1_expand01"], &["2024_1_contract01"]]
    {
        let (_dir, database) = empty_database().await;
        Glance::sync_to(&database, heads_before).await;
        let run = |command: &str| {
            let output = db(&database, command);
            (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
        };
        let is_contracted = heads_before == ["2024_1_contract01"];
        if !heads_before.contains(&"2024_1_expand01") {
            for command in ["migrate", "contract"] {
                let (code, text) = run(command);
                assert!(code == Some(1) && text.contains("using \"glimpse db expand\""), "{heads_before:?}: {text}");
            }
            assert_eq!(run("check").0, Some(3), "{heads_before:?}");
        }
        let (code, text) = run("expand");
        let upgraded = "Upgraded database to: 2024_1_expand01, current revision(s): ";
        assert!(code == Some(0) && text.starts_with(upgraded), "{heads_before:?}: {text}");
        // All tables and indexes are there, and only the contraction is not recorded.
        assert_eq!(described_in_full(&database).await, described_in_full(&synced).await, "{heads_before:?}");
        let mut expanded: Vec<_> = heads_before.to_vec();
        if !is_contracted && !expanded.contains(&"2024_1_expand01") {
            expanded.push("2024_1_expand01");
        }
        expanded.sort_unstable();
        assert_eq!(heads(&database).await, expanded);
        TestServer::builder().database(database.clone()).start_after("migrate").await;
        assert_eq!(run("check").0, Some(if is_contracted { 0 } else { 5 }), "{heads_before:?}");
        let up_to_date = "Database is up to date. No migrations needed.\n";
        let done = |text| (Some(0), if is_contracted { up_to_date.to_owned() } else { text });
        assert_eq!(run("expand"), done("Database expansion is up to date. No expansion needed.\n".to_owned()));
        assert_eq!(run("migrate"), done("Database migration is up to date. No migration needed.\n".to_owned()));
        let head = "2024_1_contract01";
        let contracted = format!("Upgraded database to: {head}, current revision(s): {head}\n");
        assert_eq!(run("contract"), done(contracted));
        assert_eq!(heads(&database).await, [head]);
        for command in ["sync", "expand", "migrate", "contract"] {
            assert_eq!(run(command), (Some(0), up_to_date.to_owned()), "{command}");
        }
        assert_eq!(run("check").0, Some(0));
        assert_eq!(described_in_full(&database).await, described_in_full(&synced).await, "{heads_before:?}");
    }
}

/// Glance's own `db expand` leaves tables on an empty database that its contraction changes.
#[tokio::test]
async fn a_database_that_glance_has_expanded_only_is_left_unchanged() {
    let (_dir, database) = empty_database().await;
    Glance::sync_to(&database, &["2024_1_expand01"]).await;
    let before = described(&database).await;
    for command in ["sync", "expand", "contract"] {
        assert_eq!(db(&database, command).status.code(), Some(1), "{command}");
    }
    assert_eq!((described(&database).await, heads(&database).await), (before, vec!["2024_1_expand01".to_owned()]));
}

mod on_a_server {
    use super::*;
    use crate::support::{Gate, Side};

    /// The database's server executes a statement to its end even if the client that sent it has died, and then nobody records the
    /// migration. `tests/sync-kills` kills the program at random.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_sync_that_is_killed_at_any_statement_is_completed_by_the_next_one() {
        let (_fresh, fresh) = empty_database().await;
        Glance::sync(&fresh).await;
        let (dir, database) = empty_database().await;
        let (gate, behind) = Gate::before(&database).await;
        let config = dir.path().join("glance-api.conf");
        fs::write(&config, format!("[database]\nconnection = {}\n", behind.url)).unwrap();
        let index = if database.engine == Engine::Postgres { "INDEX CONCURRENTLY " } else { "CREATE INDEX " };
        let of = |what: &str| -> &'static str { format!("{index}{what}").leak() };
        for statement in [
            "CREATE TABLE IF NOT EXISTS glimpse_migrations",
            "CREATE TABLE image_properties",
            // On MariaDB, the record of what was just interrupted.
            "INSERT INTO glimpse_migrations",
            "CREATE TABLE node_reference",
            of("glimpse_images_listed"),
            of("glimpse_images_owned ON"),
            of("glimpse_image_tags_tagged"),
            "CREATE TABLE glimpse_processes",
            of("glimpse_image_locations_pending_delete"),
        ] {
            gate.arm(Side::Statement, statement);
            let mut sync = program().arg("--config-file").arg(&config).args(["db", "sync"]).spawn().unwrap();
            if tokio::time::timeout(Duration::from_secs(60), gate.holds()).await.is_err() {
                let activity = match database.engine {
                    Engine::Postgres => {
                        "SELECT COALESCE(wait_event, ''), query FROM pg_stat_activity WHERE datname = current_database()"
                    }
                    _ => "SELECT COALESCE(state, ''), COALESCE(info, '') FROM information_schema.processlist",
                };
                let (ended, activity) = (sync.try_wait(), database.pairs(activity).await);
                panic!("{statement} was not sent; the program: {ended:?}; the database: {activity:#?}");
            }
            sync.kill().unwrap();
            sync.wait().unwrap();
            gate.open();
        }
        sync(&database);
        assert_eq!(db(&database, "check").status.code(), Some(0));
        are_ours(&our_indexes(&database).await);
        let (ours, theirs) = (described(&database).await, described(&fresh).await);
        assert_eq!(ours, theirs);
    }

    /// An engine may be killed while it builds an index, and these engines build it outside of a transaction.
    #[tokio::test]
    async fn an_unfinished_index_is_rebuilt() {
        let (_dir, database) = empty_database().await;
        sync(&database);
        match database.engine {
            Engine::Postgres => {
                database
                    .execute(
                        "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'glimpse_images_named'::regclass",
                    )
                    .await;
                // The others are valid, and their migrations are not recorded.
                database.execute("DELETE FROM glimpse_migrations WHERE version >= 5").await;
                database
                    .execute("DROP TABLE glimpse_processes, glimpse_uploads, glimpse_leftovers, glimpse_jobs")
                    .await;
            }
            _ => {
                database.execute("UPDATE glimpse_migrations SET success = FALSE WHERE version = 8").await;
            }
        }
        sync(&database);
        are_ours(&our_indexes(&database).await);
        assert_eq!(db(&database, "check").status.code(), Some(0));
    }
}

/// Migrates a database at these revisions to Glimpse, and back to Glance.
async fn is_taken_over(heads: &[&str]) {
    let (_fresh, fresh) = empty_database().await;
    Glance::sync(&fresh).await;
    let expected = described(&fresh).await;
    let (_dir, database) = empty_database().await;
    Glance::sync_to(&database, heads).await;
    let columns = "id, name, status, created_at, deleted, min_disk, min_ram, visibility, owner";
    let values =
        "'4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90', 'kept', 'queued', '2020-01-01 00:00:00', '0', 1, 2, 'public', 'p1'";
    database.execute(&format!("INSERT INTO images ({columns}) VALUES ({values})")).await;
    // If the schema is complete, only the end of Glance's upgrade is missing.
    let codes: &[i32] = if heads.iter().any(|head| head.starts_with("2024_1")) { &[3, 5] } else { &[3] };
    assert!(codes.contains(&db(&database, "check").status.code().unwrap()), "{heads:?}");
    for _ in 0..2 {
        sync(&database);
    }
    if heads.iter().any(|head| head.starts_with("2024_1")) {
        // Simulates an interruption before all migrations were recorded.
        database.execute("DELETE FROM glimpse_migrations WHERE version >= 2").await;
        for (table, index) in OUR_INDEXES {
            let of = if database.engine == Engine::MySql { format!("ON {table}") } else { String::new() };
            database.execute(&format!("DROP INDEX {index} {of}")).await;
        }
        for table in ["glimpse_processes", "glimpse_uploads", "glimpse_leftovers", "glimpse_jobs"] {
            database.execute(&format!("DROP TABLE {table}")).await;
        }
        sync(&database);
    }
    assert_eq!(db(&database, "check").status.code(), Some(0), "{heads:?}");
    let s = TestServer::builder().database(database.clone()).start().await;
    let image = "/v2/images/4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";
    let shown = s.member("p2").get(image).await.expect(200).json();
    assert_eq!((&shown["name"], &shown["min_ram"]), (&json!("kept"), &json!(2)));
    s.member("p1").put(&format!("{image}/tags/a")).await.expect(204);
    // Glance's own tools find the expected schema, and can upgrade it.
    let version = Glance::manage(&database, &["db", "version"]).await;
    assert!(version.contains("2024_1_"), "{heads:?}: {version}");
    Glance::sync(&database).await;
    assert_eq!(described(&database).await, expected, "{heads:?}");
    are_ours(&our_indexes(&database).await);
}

#[tokio::test]
async fn a_wallaby_database_is_taken_over_and_can_go_back() {
    is_taken_over(&["wallaby_contract01"]).await;
}

#[tokio::test]
async fn a_half_done_upgrade_to_wallaby_is_taken_over_and_can_go_back() {
    is_taken_over(&["ussuri_contract01", "wallaby_expand01"]).await;
}

#[tokio::test]
async fn a_zed_database_is_taken_over_and_can_go_back() {
    is_taken_over(&["zed_contract01"]).await;
}

#[tokio::test]
async fn a_half_done_upgrade_to_2024_1_is_taken_over_and_can_go_back() {
    is_taken_over(&["2023_1_contract01", "2024_1_expand01"]).await;
}

#[tokio::test]
async fn a_glance_33_database_is_taken_over_and_can_go_back() {
    is_taken_over(&["2024_1_contract01"]).await;
}

#[tokio::test]
async fn a_database_that_is_too_old_is_left_unchanged() {
    let (_dir, database) = empty_database().await;
    Glance::sync_to(&database, &["train_contract01"]).await;
    let before = described(&database).await;
    let output = db(&database, "sync");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("not of a Glance from Wallaby to 33"), "{error}");
    assert_eq!(described(&database).await, before);
}

/// An image without the attributes that depend on each server's own configuration.
fn comparable(mut image: Value) -> Value {
    let object = image.as_object_mut().unwrap();
    for own in ["stores", "updated_at"] {
        object.remove(own);
    }
    object["tags"].as_array_mut().unwrap().sort_by_key(|tag| tag.as_str().unwrap().to_owned());
    image
}

#[tokio::test]
async fn glimpse_and_glance_show_changes_made_by_each_other() {
    let s = TestServer::start().await;
    let glance = Glance::start_synced(&s.database).await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    let body = json!({
        "name": "né", "tags": ["a", "B", "c d"], "os_distro": "debian", "min_ram": 5, "protected": true,
        "disk_format": "qcow2", "container_format": "bare", "visibility": "private", "os_hidden": true,
    });
    for (writer, reader) in [(&ours, &theirs), (&theirs, &ours)] {
        let image = writer.create_image(&body).await;
        let (written, read) =
            (writer.get(&image).await.expect(200).json(), reader.get(&image).await.expect(200).json());
        assert_eq!(comparable(written), comparable(read));
        // Each program removes and adds a tag.
        writer.delete(&format!("{image}/tags/a")).await.expect(204);
        assert!(!reader.tags(&image).await.contains(&"a".to_owned()));
        reader.delete(&format!("{image}/tags/a")).await.expect(404);
        reader.put(&format!("{image}/tags/a")).await.expect(204);
        assert!(writer.tags(&image).await.contains(&"a".to_owned()));
        writer.delete(&format!("{image}/tags/a")).await.expect(204);
        writer.put(&format!("{image}/tags/a")).await.expect(204);
        reader.delete(&format!("{image}/tags/a")).await.expect(204);
        let mut left = reader.tags(&image).await;
        left.sort();
        assert_eq!(left, ["B", "c d"]);
        writer.delete(&image).await.expect(403);
        reader.delete(&image).await.expect(403);
        // An image deleted by one program is deleted for both, and its id cannot be used again.
        let id = json!({"id": format!("{:08x}-5c61-48ff-b4f3-0ad4e5e3ba90", rand::random::<u32>()), "tags": ["a"]});
        let image = writer.create_image(&id).await;
        writer.delete(&image).await.expect(204);
        reader.get(&image).await.expect(404);
        reader.post("/v2/images", &id).await.expect(409);
    }
    // Listings agree, page by page.
    for n in 0..5 {
        let writer = if n % 2 == 0 { &ours } else { &theirs };
        writer.create_image(&json!({"name": format!("i{n}")})).await;
    }
    let (mut path, mut pages) = ("/v2/images?limit=2&sort=name:asc".to_owned(), 0);
    loop {
        let (left, right) = (ours.get(&path).await.expect(200).json(), theirs.get(&path).await.expect(200).json());
        let names = |page: &Value| -> Vec<Value> {
            page["images"].as_array().unwrap().iter().map(|image| image["name"].clone()).collect()
        };
        assert_eq!(names(&left), names(&right), "{path}");
        pages += 1;
        match left["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, 3);
}
