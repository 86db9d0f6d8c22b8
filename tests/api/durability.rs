//! Acknowledged changes survive failures, and failures are reported by their real cause.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::Executor as _;

use crate::{
    data::{id, upload, waiting_image, with_store},
    support::{Database, DatabaseServer, Engine, TestServer, eventually, program},
};

#[tokio::test]
async fn an_acknowledged_removal_survives_a_kill_of_the_server() {
    let mut s = TestServer::start().await;
    let image = s.member("p1").create_image(&json!({"tags": ["a", "b"]})).await;
    s.member("p1").delete(&format!("{image}/tags/a")).await.expect(204);
    s.kill();
    s.start_again().await;
    assert_eq!(s.member("p1").tags(&image).await, ["b"]);
}

#[tokio::test]
async fn a_corrupt_row_is_an_internal_error_without_internal_details() {
    // Even a filtered log names the request of the error.
    let s = TestServer::builder().environment("RUST_LOG", "warn,glimpse::server=info").start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    s.database.execute("UPDATE images SET status = 'garbled'").await;
    let answer = member.delete(&format!("{image}/tags/a")).await.expect(500);
    assert!(!answer.text.contains("garbled") && !answer.text.contains("Status"), "{}", answer.text);
    answer.says("The server has either erred or is incapable of performing the requested operation.");
    let answer = member.get(&image).await.expect(500);
    let id = answer.header("x-openstack-request-id");
    eventually("the fault is in the log", || {
        let told = s.log().lines().any(|line| line.contains(id) && line.contains("garbled"));
        std::future::ready(told.then_some(()))
    })
    .await;
}

/// Tests on a database server: the profiles postgres and mysql run them.
mod on_a_server {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{
            TcpStream,
            tcp::{OwnedReadHalf, OwnedWriteHalf},
        },
        sync::watch,
    };

    use super::*;

    /// Glimpse is not restarted.
    #[tokio::test]
    async fn acknowledged_changes_survive_a_kill_of_the_database_server() {
        let mut server = DatabaseServer::start();
        let s =
            TestServer::builder().database(server.database().await).option("database", "pool_timeout", 1).start().await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
        member.delete(&format!("{image}/tags/a")).await.expect(204);
        server.kill();
        for _ in 0..3 {
            let start = Instant::now();
            let answer = member.delete(&format!("{image}/tags/b")).await.expect(503);
            assert!(answer.header("retry-after").parse::<u32>().is_ok());
            assert!(start.elapsed() < Duration::from_secs(10));
            for inside in ["sqlx", "127.0.0.1", "onnection", "refused", "postgres", "mysql"] {
                assert!(!answer.text.contains(inside), "{inside} is in {}", answer.text);
            }
        }
        // The log names the cause: once the existing connections are closed, new connections are refused.
        let answer = member.get(&image).await.expect(503);
        let log = s.log_of(&answer).await.concat();
        assert!(log.contains("refused"), "{log}");
        s.anonymous().get("/healthcheck").await.expect(200);
        server.start_again();
        let tags = eventually("the database is back", || async {
            let answer = member.get(&image).await;
            (answer.status == 200).then(|| answer.json()["tags"].clone())
        })
        .await;
        assert_eq!(tags, json!(["b"]));
        member.delete(&format!("{image}/tags/b")).await.expect(204);
    }

    /// As seen by clients that keep sending requests: every response is correct or a 503, no request hangs, and every
    /// acknowledged change is present afterwards.
    #[tokio::test]
    async fn a_kill_of_the_database_server_under_load_causes_only_503() {
        let mut server = DatabaseServer::start();
        let s =
            TestServer::builder().database(server.database().await).option("database", "pool_timeout", 1).start().await;
        let member = s.member("p1");
        let image = member.create_image(&json!({})).await;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..8).map(|client| {
            let (member, image, stop) = (member.clone(), image.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut added, mut removed, mut refused) = (Vec::new(), Vec::new(), 0);
                for n in 0.. {
                    let tag = format!("c{client}-{n}");
                    let start = Instant::now();
                    // Each request adds a tag, and the next one removes the previous tag.
                    match member.put(&format!("{image}/tags/{tag}")).await.status.as_u16() {
                        204 => added.push(tag),
                        503 => refused += 1,
                        other => panic!("{other}"),
                    }
                    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
                    if added.len() > 1 {
                        let oldest = added.remove(0);
                        match member.delete(&format!("{image}/tags/{oldest}")).await.status.as_u16() {
                            204 => removed.push(oldest),
                            // It is unknown whether the change took effect.
                            503 => refused += 1,
                            other => panic!("{other}"),
                        }
                    }
                    let status = member.get(&image).await.status.as_u16();
                    assert!([200, 503].contains(&status), "{status}");
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                (added, removed, refused)
            })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.start_again();
        eventually("the database is back", || async { (member.get(&image).await.status == 200).then_some(()) }).await;
        stop.store(true, Ordering::Relaxed);
        let mut refused = 0;
        let (mut expected, mut gone) = (Vec::new(), Vec::new());
        for client in clients {
            let (added, removed, no) = client.await.unwrap();
            expected.extend(added);
            gone.extend(removed);
            refused += no;
        }
        assert!(refused > 0, "the database was never away: this test tests nothing");
        let tags = member.tags(&image).await;
        // After a 503, it is unknown whether the change took effect; after a 204, it did.
        for tag in expected {
            assert!(tags.contains(&tag), "{tag} was lost");
        }
        for tag in gone {
            assert!(!tags.contains(&tag), "{tag} came back");
        }
    }

    /// A database server that accepts connections but does not respond must not block a request forever.
    #[tokio::test]
    async fn a_frozen_database_server_is_answered_503() {
        let server = DatabaseServer::start();
        let s = TestServer::builder()
            .database(server.database().await)
            .option("database", "pool_timeout", 1)
            .option("glimpse", "request_timeout", 2)
            .start()
            .await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a"]})).await;
        server.freeze();
        for _ in 0..2 {
            let start = Instant::now();
            member.delete(&format!("{image}/tags/a")).await.expect(503).header("retry-after");
            member.get(&image).await.expect(503).header("retry-after");
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        server.thaw();
        // Whether the blocked removal was carried out is unknown, so the next removal may find either state.
        let status = eventually("the database is back", || async {
            let status = member.delete(&format!("{image}/tags/a")).await.status.as_u16();
            (status != 503).then_some(status)
        })
        .await;
        assert!([204, 404].contains(&status), "{status}");
        assert_eq!(member.tags(&image).await, [""; 0]);
    }

    /// The same holds for a row that another transaction has locked, even while the server drains.
    #[tokio::test]
    async fn waiting_for_a_locked_row_times_out() {
        let mut s = TestServer::builder()
            .option("glimpse", "request_timeout", "1")
            .option("glimpse", "drain_timeout", "1")
            .start()
            .await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a"]})).await;
        let mut other = s.database.connect().await;
        other.execute("BEGIN").await.unwrap();
        other.execute("UPDATE images SET min_ram = 1").await.unwrap();
        member.delete(&format!("{image}/tags/a")).await.expect(503).header("retry-after");
        let (waiting, path) = (member.clone(), format!("{image}/tags/a"));
        let before = waiting_for_locks(&s.database).await;
        let waiting = tokio::spawn(async move { waiting.try_send(waiting.request("DELETE", &path)).await });
        eventually("it waits", || async { (waiting_for_locks(&s.database).await > before).then_some(()) }).await;
        s.terminate();
        let start = Instant::now();
        assert!(s.ended().await.success());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        drop(waiting.await);
        other.execute("ROLLBACK").await.unwrap();
        s.start_again().await;
        assert_eq!(s.member("p1").tags(&image).await, ["a"]);
    }

    /// A client that disconnects while its transaction waits leaves neither a connection in the middle of a response
    /// nor a lock. The pool has only one connection, so the next request would be affected.
    #[tokio::test]
    async fn an_aborted_request_leaves_its_database_connection_usable() {
        let s = TestServer::builder()
            .option("database", "max_pool_size", 1)
            .option("database", "max_overflow", 0)
            .start()
            .await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
        let mut other = s.database.connect().await;
        for _ in 0..3 {
            other.execute("BEGIN").await.unwrap();
            other.execute("UPDATE images SET min_ram = 1").await.unwrap();
            let (leaving, path) = (member.clone(), format!("{image}/tags/a"));
            let leaving = tokio::spawn(async move { leaving.try_send(leaving.request("DELETE", &path)).await });
            eventually("it waits", || async { (waiting_for_locks(&s.database).await > 0).then_some(()) }).await;
            leaving.abort();
            other.execute("ROLLBACK").await.unwrap();
            // Whether the tag was removed is unknown.
            let tags = member.tags(&image).await;
            assert!(tags == ["a", "b"] || tags == ["b"], "{tags:?}");
            member.put(&format!("{image}/tags/a")).await.expect(204);
            assert_eq!(member.tags(&image).await, ["a", "b"]);
            // A refusal ends its transaction as well.
            member.delete(&format!("{image}/tags/none")).await.expect(404);
        }
        other.execute("UPDATE images SET min_ram = 2").await.unwrap();
        assert_eq!(member.get(&image).await.expect(200).json()["min_ram"], 2);
    }

    /// If two transactions wait for each other, the engine aborts one of them. If it is Glimpse's, Glimpse retries it.
    #[tokio::test]
    async fn a_transaction_that_deadlocks_is_retried() {
        let s = TestServer::start().await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a"]})).await;
        let mut other = s.database.connect().await;
        other.execute("BEGIN").await.unwrap();
        other.execute("UPDATE image_tags SET updated_at = '2026-01-01 00:00:00'").await.unwrap();
        let (ours, path) = (member.clone(), format!("{image}/tags/a"));
        let ours = tokio::spawn(async move { ours.delete(&path).await });
        // Waits until Glimpse's transaction holds the image's row and waits for the tag's row.
        eventually("ours waits", || async { (waiting_for_locks(&s.database).await > 0).then_some(()) }).await;
        // Either transaction may be aborted.
        let _ = other.execute("UPDATE images SET min_ram = 1").await;
        let _ = other.execute("ROLLBACK").await;
        ours.await.unwrap().expect(204);
        assert_eq!(member.tags(&image).await, [""; 0]);
    }

    /// The URL's parameters select which certificates are required and sent.
    #[tokio::test]
    async fn the_database_servers_certificate_is_verified_and_a_client_certificate_is_sent() {
        let server = DatabaseServer::start_with_tls().await;
        let database = server.database().await;
        let name = database.url.rsplit('/').next().unwrap();
        let file = |name: &str| server.tls(name).display().to_string();
        let (ca, wrong_ca) = (file("ca.pem"), file("client.pem"));
        let (cert, key) = (file("client.pem"), file("client-key.pem"));
        let postgres = Engine::under_test() == Engine::Postgres;
        let with = |host: &str, ca: &str, strict: bool, own: bool| {
            let mut query = if postgres {
                format!("sslmode={}&sslrootcert={ca}", if strict { "verify-full" } else { "verify-ca" })
            } else {
                format!("ssl_ca={ca}&{}=true", if strict { "ssl_verify_identity" } else { "ssl_verify_cert" })
            };
            if own {
                let names = if postgres { ("sslcert", "sslkey") } else { ("ssl_cert", "ssl_key") };
                query = format!("{query}&{}={cert}&{}={key}", names.0, names.1);
            }
            let scheme = if postgres { "postgresql+psycopg2" } else { "mysql+pymysql" };
            format!("{scheme}://tls@{host}:{}/{name}?{query}", server.port())
        };
        let missing = file("missing.pem");
        let check = |url: String| {
            let dir = tempfile::tempdir().unwrap();
            let config = dir.path().join("glance-api.conf");
            std::fs::write(&config, format!("[database]\nconnection = {url}\npool_timeout = 2\n")).unwrap();
            let output = program().arg("--config-file").arg(&config).args(["db", "check"]).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        for (url, told) in [
            (with("127.0.0.1", &wrong_ca, false, true), "certificate"),
            (with("127.0.0.1", &ca, true, true), "certificate not valid for name"),
            (with("127.0.0.1", &missing, false, true), "No such file"),
            (with("127.0.0.1", &ca, false, false), if postgres { "client certificate" } else { "Access denied" }),
        ] {
            let (code, error) = check(url.clone());
            assert_eq!(code, Some(1), "{url}: {error}");
            assert!(error.contains(told), "{url}: {error}");
        }
        for url in [with("127.0.0.1", &ca, false, true), with("localhost", &ca, true, true)] {
            assert_eq!(check(url.clone()), (Some(3), String::new()), "{url}");
        }
        let engine = database.engine;
        let s =
            TestServer::builder().database(Database { engine, url: with("localhost", &ca, true, true) }).start().await;
        let image = s.member("p1").create_image(&json!({"tags": ["a"]})).await;
        assert_eq!(s.member("p1").tags(&image).await, ["a"]);
    }

    /// The number of transactions that wait for a row.
    async fn waiting_for_locks(database: &Database) -> i64 {
        if database.engine == Engine::MySql {
            // MariaDB caches this table for a tenth of a second after each query, including queries by other tests.
            let pause = rand::random_range(200..600);
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        }
        let sql = if database.engine == Engine::Postgres {
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        } else {
            "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
             ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE() AND t.trx_state = 'LOCK WAIT'"
        };
        database.count(sql).await
    }

    /// A proxy in front of MariaDB that fails transactions at COMMIT, as Galera does.
    #[derive(Clone, Copy)]
    enum Certification {
        /// Another node's transaction committed first: this one is rolled back.
        Refused,
        /// The node has lost its cluster. The transaction is committed nevertheless, which the client cannot know.
        Unknown,
    }

    impl Certification {
        /// The statement instead of COMMIT, and the error in place of its answer.
        fn packets(self) -> (&'static [u8], &'static [u8]) {
            match self {
                Self::Refused => (
                    b"\x03ROLLBACK",
                    b"\xff\xbd\x04#40001Deadlock found when trying to get lock; try restarting transaction",
                ),
                Self::Unknown => (b"\x03COMMIT", b"\xff\x9c\x04#HY000Got error 6 during COMMIT"),
            }
        }

        /// Relays one request and one response at a time. A failed COMMIT is answered by this proxy.
        async fn pass(self, client: TcpStream, server: TcpStream, fails: Arc<AtomicU32>) {
            let (statement, error) = self.packets();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let undone = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&undone);
            let there = async move {
                while let Some((number, mut packet)) = Self::packet(&mut from_client).await {
                    let one_less = |left: u32| left.checked_sub(1);
                    if packet == b"\x03COMMIT"
                        && fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
                    {
                        packet = statement.to_vec();
                        undone.store(true, Ordering::SeqCst);
                    }
                    if Self::send(&mut to_server, number, &packet).await.is_none() {
                        break;
                    }
                }
            };
            let back = async move {
                while let Some((number, mut packet)) = Self::packet(&mut from_server).await {
                    if told.swap(false, Ordering::SeqCst) {
                        packet = error.to_vec();
                    }
                    if Self::send(&mut to_client, number, &packet).await.is_none() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = there => {}
                () = back => {}
            }
        }

        async fn packet(from: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
            let mut head = [0; 4];
            from.read_exact(&mut head).await.ok()?;
            let mut packet = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
            from.read_exact(&mut packet).await.ok()?;
            Some((head[3], packet))
        }

        async fn send(to: &mut OwnedWriteHalf, number: u8, packet: &[u8]) -> Option<()> {
            let mut whole = u32::try_from(packet.len()).unwrap().to_le_bytes();
            whole[3] = number;
            to.write_all(&[&whole, packet].concat()).await.ok()
        }
    }

    /// Returns a server, and the number of its commits that will still fail. `None` unless the engine is MariaDB: PostgreSQL has no
    /// such cluster. The test needs several threads, because the proxy must run while the test waits for a program to end.
    async fn with_failing_commits(certification: Certification) -> Option<(TestServer, Arc<AtomicU32>)> {
        if Engine::under_test() != Engine::MySql {
            return None;
        }
        let database = Database::create(std::path::Path::new("")).await;
        let fails = Arc::new(AtomicU32::new(0));
        let shared = Arc::clone(&fails);
        let pass = move |client, server| certification.pass(client, server, Arc::clone(&shared));
        let s = TestServer::builder().database(database.behind(pass).await).start().await;
        Some((s, fails))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_transaction_that_fails_at_commit_is_retried() {
        let Some((s, fails)) = with_failing_commits(Certification::Refused).await else { return };
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
        fails.store(3, Ordering::SeqCst);
        member.delete(&format!("{image}/tags/a")).await.expect(204);
        assert_eq!(fails.load(Ordering::SeqCst), 0);
        assert_eq!(member.tags(&image).await, ["b"]);
        // The number of retries is limited.
        fails.store(1000, Ordering::SeqCst);
        member.delete(&format!("{image}/tags/b")).await.expect(503).header("retry-after");
        fails.store(0, Ordering::SeqCst);
        assert_eq!(member.tags(&image).await, ["b"]);
        member.delete(&format!("{image}/tags/b")).await.expect(204);
    }

    /// Error 1180. The transaction must not run again: it may have been committed.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_with_an_unknown_result_is_answered_503_and_not_retried() {
        let Some((s, fails)) = with_failing_commits(Certification::Unknown).await else { return };
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
        fails.store(1000, Ordering::SeqCst);
        let answer = member.delete(&format!("{image}/tags/a")).await.expect(503);
        assert!(answer.header("retry-after").parse::<u32>().is_ok());
        assert_eq!(fails.swap(0, Ordering::SeqCst), 999);
        let log = s.log_of(&answer).await.concat();
        assert!(log.contains("during COMMIT"), "{log}");
        // Here it was committed.
        assert_eq!(member.tags(&image).await, ["b"]);
        member.delete(&format!("{image}/tags/a")).await.expect(404);
    }

    /// The database behind a relay, and a sender that makes the relay discard all data on its current connections.
    async fn behind_a_discarding_relay(database: &Database) -> (Database, watch::Sender<()>) {
        let swallow = watch::Sender::new(());
        let swallows = swallow.clone();
        let pass = move |mut client, mut server| {
            let mut swallowed = swallows.subscribe();
            async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = swallowed.changed() => std::future::pending().await,
                }
            }
        };
        (database.behind(pass).await, swallow)
    }

    /// As behind a firewall that has lost the state of the connections.
    #[tokio::test(flavor = "multi_thread")]
    async fn unresponsive_database_connections_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (database, swallow) = behind_a_discarding_relay(&Database::create(dir.path()).await).await;
        let s = TestServer::builder()
            .database(database)
            .option("database", "max_pool_size", 1)
            .option("database", "max_overflow", 0)
            .option("database", "pool_timeout", 1)
            .option("glimpse", "request_timeout", 1)
            .start()
            .await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a"]})).await;
        // In a single statement and in a transaction.
        for request in [("GET", image.clone()), ("PUT", format!("{image}/tags/b"))] {
            member.get(&image).await.expect(200);
            swallow.send_replace(());
            let (method, path) = &request;
            member.send(member.request(method, path)).await.expect(503);
            eventually("there is another connection", || async {
                (member.get(&image).await.status == 200).then_some(())
            })
            .await;
        }
        assert_eq!(member.tags(&image).await, ["a"]);
    }

    /// A process is not considered dead because of a failed connection, and an unresponsive server is logged once.
    #[tokio::test(flavor = "multi_thread")]
    async fn heartbeats_continue_when_database_connections_fail() {
        let server = DatabaseServer::start();
        let database = server.database().await;
        let (relayed, swallow) = behind_a_discarding_relay(&database).await;
        let s = TestServer::builder()
            .database(relayed)
            .without("glimpse", "heartbeat")
            .option("glimpse", "heartbeat", 1)
            .environment("RUST_LOG", "info,glimpse=debug")
            .start()
            .await;
        let beat = async || database.count("SELECT beat FROM glimpse_processes").await >> 32;
        for _ in 0..2 {
            let before = beat().await;
            swallow.send_replace(());
            eventually("it goes on", || async { (beat().await > before + 2).then_some(()) }).await;
        }
        let told = |level: &str, what: &str| {
            let log = s.log();
            log.lines().filter(|line| line.contains(level) && line.contains(what)).count()
        };
        let failing = "heartbeat failed";
        let again = "heartbeat works again";
        let tried = told("DEBUG", failing);
        server.freeze();
        eventually("it fails again and again", || async { (told("DEBUG", failing) > tried + 2).then_some(()) }).await;
        assert_eq!(told("WARN", failing), told("INFO", again) + 1, "{}", s.log());
        server.thaw();
        eventually("it is told", || async { (told("INFO", again) == told("WARN", failing)).then_some(()) }).await;
    }

    /// The connections to a server's database, except the one that runs this query.
    async fn connections(database: &Database) -> Vec<i64> {
        let sql = if database.engine == Engine::Postgres {
            "SELECT pid::text, '' FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        } else {
            "SELECT CAST(id AS CHAR), '' FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        };
        database.pairs(sql).await.into_iter().map(|(id, _)| id.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_connection_past_its_maximum_age_is_replaced() {
        for (recycle, replaced) in [(1, true), (0, true), (3600, false), (-1, false)] {
            let s = TestServer::builder()
                .option("database", "connection_recycle_time", recycle)
                .option("database", "max_pool_size", 1)
                .option("database", "max_overflow", 0)
                .start()
                .await;
            let member = s.member("p1");
            member.get("/v2/images").await.expect(200);
            let first = connections(&s.database).await;
            assert_eq!(first.len(), 1, "{recycle}: {first:?}");
            if replaced {
                eventually("the connection is replaced", || async {
                    member.get("/v2/images").await.expect(200);
                    (connections(&s.database).await != first).then_some(())
                })
                .await;
            } else {
                for _ in 0..5 {
                    member.get("/v2/images").await.expect(200);
                }
                assert_eq!(connections(&s.database).await, first, "{recycle}");
            }
        }
    }

    #[tokio::test]
    async fn an_exhausted_connection_pool_is_answered_503() {
        let s = TestServer::builder()
            .option("database", "max_pool_size", 1)
            .option("database", "max_overflow", 0)
            .option("database", "pool_timeout", "0.5")
            .start()
            .await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a", "b"]})).await;
        let mut other = s.database.connect().await;
        other.execute("BEGIN").await.unwrap();
        other.execute("UPDATE images SET min_ram = 1").await.unwrap();
        let (waiting, path) = (member.clone(), format!("{image}/tags/a"));
        let waiting = tokio::spawn(async move { waiting.delete(&path).await });
        // The only connection waits for the row, so the next request finds none.
        let answer = eventually("the pool is used up", || async {
            let answer = member.get(&image).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        let log = s.log_of(&answer).await.concat();
        assert!(log.contains("pool timed out"), "{log}");
        answer.expect(503).header("retry-after");
        other.execute("ROLLBACK").await.unwrap();
        waiting.await.unwrap().expect(204);
        assert_eq!(member.tags(&image).await, ["b"]);
    }
}

/// Tests on the embedded database: the profile sqlite runs them.
mod on_sqlite {
    use super::*;

    #[tokio::test]
    async fn an_sqlite_file_locked_by_another_process_is_answered_503() {
        let s = TestServer::builder().option("database", "pool_timeout", "0.3").start().await;
        let member = s.member("p1");
        let image = member.create_image(&json!({"tags": ["a"]})).await;
        let mut other = s.database.connect().await;
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        let answer = member.delete(&format!("{image}/tags/a")).await.expect(503);
        assert!(answer.header("retry-after").parse::<u32>().is_ok());
        assert!(!answer.text.contains("locked"), "{}", answer.text);
        // Readers are not blocked.
        assert_eq!(member.tags(&image).await, ["a"]);
        other.execute("ROLLBACK").await.unwrap();
        member.delete(&format!("{image}/tags/a")).await.expect(204);
    }
}

/// Without it, a power failure could undo the renaming of a file whose upload was answered 204.
#[tokio::test]
async fn a_files_new_name_is_synced_before_its_upload_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_store(dir.path()).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    let log = dir.path().join("strace.log");
    let strace = s.trace(&["-y", "-e", "trace=fsync,rename,renameat,renameat2"], &log).await;
    upload(&member, &image, "abc").await.expect(204);
    // System calls from before the response are in the log once the next call is.
    let other = waiting_image(&member).await;
    upload(&member, &other, "abc").await.expect(204);
    let calls = eventually("the calls are logged", || {
        let calls = std::fs::read_to_string(&log).unwrap();
        std::future::ready(calls.contains(&format!("/{}\"", id(&other))).then_some(calls))
    });
    let calls = calls.await;
    drop(strace);
    let line = |what: String| calls.lines().position(|line| line.contains(&what));
    let renamed = line(format!("/{}\"", id(&image))).unwrap();
    let next = line(format!("/{}\"", id(&other))).unwrap();
    let folder = format!("<{}>", dir.path().join("images").display());
    let is_synced = |line: &str| line.contains("fsync(") && line.contains(&folder);
    assert!(calls.lines().skip(renamed).take(next - renamed).any(is_synced), "{calls}");
}
