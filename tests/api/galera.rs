//! Galera clusters, as far as one MariaDB can stand in for a node. `tests/galera-races` starts a real cluster.

use std::fs;

use crate::support::program;

/// MariaDB reports that it is a node of a cluster.
const CLUSTERED: (&str, &str) = ("SHOW SESSION VARIABLES LIKE 'wsrep_on'", "SELECT 'wsrep_on', 'ON'");

#[test]
fn a_sync_wait_out_of_range_is_refused_with_its_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("glance-api.conf");
    for (value, accepted) in [("-1", false), ("16", false), ("one", false), ("0", true), ("15", true), ("", true)] {
        fs::write(&config, format!("[database]\nmysql_wsrep_sync_wait = {value}\n")).unwrap();
        let output = program().arg("--config-file").arg(&config).args(["config", "check"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), accepted, "{value}: {told}");
        let place = "glance-api.conf:2: [database] mysql_wsrep_sync_wait: a whole number from";
        assert!(accepted || told.contains(place), "{value}: {told}");
    }
}

mod on_a_server {
    use std::process::Output;

    use serde_json::json;

    use super::*;
    use crate::support::{Database, Engine, Gate, Side, TestServer};

    /// A program that knows the database through a relay on this thread runs on another one.
    async fn db(database: &Database, options: &str, command: &'static [&'static str]) -> Output {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("glance-api.conf");
        fs::write(&config, format!("[database]\nconnection = {}\n{options}\n", database.url)).unwrap();
        let run = move || program().arg("--config-file").arg(&config).args(command).output().unwrap();
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn database() -> Option<Database> {
        // SQLite and PostgreSQL have no such clusters.
        if Engine::under_test() == Engine::MySql {
            Some(Database::create(std::path::Path::new("")).await)
        } else {
            None
        }
    }

    /// MySQL does not have the variable.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_without_galera_is_used_with_one_warning() {
        let Some(database) = database().await else { return };
        let behind = database.rewriting(&[("SESSION wsrep_sync_wait", "SESSION wsrep_unknown")]).await;
        let s = TestServer::builder().database(behind).option("database", "mysql_wsrep_sync_wait", 1).start().await;
        let requests = (0..4).map(|_| {
            let member = s.member("p1");
            tokio::spawn(async move { member.create_image(&json!({})).await })
        });
        for request in requests.collect::<Vec<_>>() {
            request.await.unwrap();
        }
        assert_eq!(s.log().matches("mysql_wsrep_sync_wait has no effect").count(), 1, "{}", s.log());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_cannot_be_set_up_is_reported_with_the_reason() {
        let Some(database) = database().await else { return };
        let behind = database.rewriting(&[("READ COMMITTED", "READ CONNITTED")]).await;
        let output = db(&behind, "pool_timeout = 1", &["db", "check"]).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        let last = told.lines().last().unwrap_or_default();
        assert!(last.contains("error in your SQL syntax") && last.contains("CONNITTED"), "{told}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_is_migrated_with_a_pool_of_one_connection() {
        let Some(database) = database().await else { return };
        let behind = database.rewriting(&[CLUSTERED]).await;
        let output = db(&behind, "max_pool_size = 1\nmax_overflow = 0\npool_timeout = 1", &["db", "sync"]).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(db(&database, "", &["db", "check"]).await.status.code(), Some(0));
        // The lock of a cluster was taken, and released.
        assert_eq!(database.count("SELECT COUNT(*) FROM glimpse_sync_lock").await, 0);
    }

    /// Another process takes the lock over if the holder's heartbeats do not arrive. The holder may go on later.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_sync_that_has_lost_its_lock_starts_no_further_migration() {
        let Some(database) = database().await else { return };
        let (gate, behind) = Gate::before(&database.rewriting(&[CLUSTERED]).await).await;
        gate.arm(Side::Statement, "CREATE INDEX glimpse_images_named");
        let sync = tokio::spawn(async move { db(&behind, "", &["db", "sync"]).await });
        gate.holds().await;
        database.execute("UPDATE glimpse_sync_lock SET process = 'other' WHERE slot = 0").await;
        gate.open();
        let output = sync.await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("another process has taken over the migrations"), "{told}");
        assert_eq!(database.count("SELECT MAX(version) FROM glimpse_migrations").await, 5);
        // It does not release the lock of the other process.
        assert_eq!(database.count("SELECT COUNT(*) FROM glimpse_sync_lock WHERE process = 'other'").await, 1);
        database.execute("DELETE FROM glimpse_sync_lock").await;
        assert!(db(&database, "", &["db", "sync"]).await.status.success());
    }
}
