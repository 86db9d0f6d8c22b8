//! `glance-manage db`, compared with Glance's own.

use std::{
    fs,
    process::{Command, Output},
};

use crate::{
    side_by_side::{described, empty_database, heads},
    support::{Database, Engine, Glance},
};

/// Runs Glimpse under the name of Glance's command.
fn manage(database: &Database, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let (config, link) = (dir.path().join("glance-api.conf"), dir.path().join("glance-manage"));
    fs::write(&config, format!("[database]\nconnection = {}\n", database.url)).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    Command::new(link).env_clear().arg("--config-file").arg(&config).args(arguments).output().unwrap()
}

/// The exit code, the output, and the last line of the errors if the command failed, without the lines of the log.
fn seen(output: &Output) -> (Option<i32>, String, String) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_error = |line: &&str| !output.status.success() && !line.contains(" INFO ");
    let last = errors.lines().rfind(is_error).unwrap_or_default();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), last.to_owned())
}

/// Runs the commands on two databases at these revisions, with Glance's command and with ours, and compares after each what a
/// script sees.
async fn is_the_same(start: &[&str], commands: &[&str]) {
    let ((_ours, ours), (_theirs, theirs)) = (empty_database().await, empty_database().await);
    if !start.is_empty() {
        for database in [&ours, &theirs] {
            Glance::sync_to(database, start).await;
        }
    }
    for command in commands {
        // What Glimpse adds to the newest revisions is added first, so that both programs have nothing else to do.
        if heads_or_none(&ours).await == ["2024_1_contract01"] {
            assert!(manage(&ours, &["db", "upgrade"]).status.success());
        }
        let arguments: Vec<&str> = command.split(' ').collect();
        let expected = Glance::try_manage(&theirs, &arguments).await;
        let (code, out, error) = seen(&expected);
        let (our_code, our_out, our_error) = seen(&manage(&ours, &arguments));
        assert_eq!((our_code, &our_out), (code, &out), "{start:?}: {command}: {our_error}, Glance: {error}");
        if String::from_utf8_lossy(&expected.stderr).contains("Traceback") {
            assert!(our_error.starts_with("ERROR: "), "{command}: {our_error}");
        } else {
            assert_eq!(our_error, error, "{start:?}: {command}");
        }
        assert_eq!(heads_or_none(&ours).await, heads_or_none(&theirs).await, "{start:?}: {command}");
    }
    assert_eq!(described(&ours).await, described(&theirs).await, "{start:?}");
}

async fn heads_or_none(database: &Database) -> Vec<String> {
    let tables = match database.engine {
        Engine::Sqlite => "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'",
        Engine::Postgres => "SELECT count(*) FROM information_schema.tables WHERE table_name = 'alembic_version'",
        Engine::MySql => {
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND table_name = 'alembic_version'"
        }
    };
    if database.engine == Engine::Sqlite
        && !std::path::Path::new(database.url.trim_start_matches("sqlite:///")).exists()
        || database.count(tables).await == 0
    {
        return Vec::new();
    }
    heads(database).await
}

#[tokio::test]
async fn an_empty_database_is_upgraded_in_steps_as_by_glance() {
    let steps = [
        "db version",
        "db check",
        "db migrate",
        "db_contract",
        "db expand",
        "db check",
        "db_version",
        "db_expand",
        "db_migrate",
        "db contract",
        "db_check",
        "db version",
    ];
    is_the_same(&[], &steps).await;
}

#[tokio::test]
async fn a_database_is_synced_as_by_glance() {
    is_the_same(&[], &["db sync a b", "db_sync nosuch", "db sync", "db sync --version zed_contract01"]).await;
    is_the_same(&["zed_contract01"], &["db check", "db sync liberty", "db_sync", "db check"]).await;
}

#[tokio::test]
async fn an_older_database_is_upgraded_in_steps_as_by_glance() {
    let steps = [
        "db check",
        "db version",
        "db migrate",
        "db upgrade yoga_contract01",
        "db upgrade nosuch",
        "db upgrade head",
        "db expand",
        "db version",
        "db check",
        "db migrate",
        "db contract",
        "db_upgrade",
        "db_upgrade heads",
        "db check x",
    ];
    is_the_same(&["zed_contract01"], &steps).await;
}

#[tokio::test]
async fn a_database_is_upgraded_to_revisions_as_by_glance() {
    let steps = [
        "db upgrade zed_contract01",
        "db_version",
        "db upgrade --version 2023_1_expand01",
        "db version",
        "db_upgrade expand@head",
        "db version",
        "db_upgrade zed_c",
        "db upgrade",
        "db upgrade liberty",
    ];
    is_the_same(&[], &steps).await;
}

#[tokio::test]
async fn a_revision_is_recorded_as_by_glance() {
    let steps = [
        "db_version_control zed_contract01",
        "db version",
        "db check",
        "db version_control 2024_1_expand01",
        "db check",
        "db version",
        "db_version_control nosuch",
        "db_version_control",
        "db version",
        "db version_control heads",
        "db check",
    ];
    is_the_same(&["2024_1_contract01"], &steps).await;
}

#[tokio::test]
async fn a_half_done_upgrade_of_glance_is_contracted_as_by_glance() {
    let steps = ["db check", "db migrate", "db contract", "db upgrade 2024_1_contract01", "db sync", "db"];
    is_the_same(&["zed_contract01", "2024_1_expand01"], &steps).await;
}

#[test]
fn glance_manage_without_arguments_names_its_categories() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("glance-manage");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    let output = Command::new(&link).env_clear().output().unwrap();
    let expected = format!("{} category action [<args>]\nAvailable categories:\n\tdb\n", link.display());
    assert_eq!(seen(&output), (Some(2), expected, String::new()));
}

/// Revisions that only Glance can create.
#[tokio::test]
async fn a_revision_that_glimpse_cannot_create_is_refused_with_a_reason() {
    let (_dir, database) = empty_database().await;
    for (version, reason) in [
        ("ussuri_expand01", "ussuri_expand01 is too old: Glimpse creates the schemas from wallaby_expand01 on"),
        ("+1", "Can't locate revision identified by '+1'"),
    ] {
        let (code, out, error) = seen(&manage(&database, &["db", "upgrade", version]));
        assert!(code == Some(1) && out.is_empty() && error.contains(reason), "{version}: {error}");
    }
    assert!(heads_or_none(&database).await.is_empty());
    Glance::sync_to(&database, &["train_contract01"]).await;
    let (code, _, error) = seen(&manage(&database, &["db", "sync"]));
    assert!(code == Some(1) && error.starts_with("Failed to sync database: ERROR: "), "{error}");
    assert_eq!(heads_or_none(&database).await, ["train_contract01"]);
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_an_error_as_in_glance() {
    let (_dir, database) = empty_database().await;
    let dir = tempfile::tempdir().unwrap();
    let missing = match database.engine {
        Engine::Sqlite => format!("sqlite:///{}/missing/glance.sqlite", dir.path().display()),
        Engine::Postgres | Engine::MySql => format!("{}-missing", database.url),
    };
    let missing = Database { url: missing, ..database };
    for command in ["version", "check", "sync"] {
        let (code, _, error) = seen(&manage(&missing, &["db", command]));
        assert_eq!(
            (code, Glance::try_manage(&missing, &["db", command]).await.status.code()),
            (Some(1), Some(1)),
            "{command}: {error}"
        );
        assert!(error.contains("ERROR: "), "{command}: {error}");
    }
    assert!(dir.path().read_dir().unwrap().next().is_none());
}

#[test]
fn glance_manage_needs_the_url_of_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let (config, link) = (dir.path().join("glance-api.conf"), dir.path().join("glance-manage"));
    fs::write(&config, "").unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    let mut command = Command::new(link);
    let output =
        command.env_clear().current_dir(dir.path()).arg("--config-file").arg(&config).args(["db", "sync"]).output();
    let (code, out, error) = seen(&output.unwrap());
    assert!(code == Some(1) && out.is_empty() && error.contains("[database] connection is not set"), "{error}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 2);
}

mod on_sqlite {
    use super::*;

    #[tokio::test]
    async fn reading_the_revision_does_not_change_the_file() {
        let (_dir, database) = empty_database().await;
        Glance::sync(&database).await;
        let path = database.url.trim_start_matches("sqlite:///").to_owned();
        let before = fs::read(&path).unwrap();
        for command in ["version", "check"] {
            assert!(seen(&manage(&database, &["db", command])).2.is_empty());
        }
        assert!(fs::read(&path).unwrap() == before);
    }
}
