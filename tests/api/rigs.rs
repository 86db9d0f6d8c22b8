//! The real Keystone and Glance that other tests rely on behave as those tests assume.

use std::{process::Command, time::Duration};

use serde_json::json;

use crate::support::{Database, Engine, Glance, Keystone, eventually};

/// Validates a token as a service does, and returns the status of Keystone's response.
async fn validate(keystone: &Keystone, service: &str, token: &str) -> u16 {
    let service = keystone.client(Some(service));
    service.send(service.request("GET", "/auth/tokens").header("X-Subject-Token", token)).await.status.as_u16()
}

#[tokio::test]
async fn keystone_issues_tokens_and_counts_their_validations() {
    let mut keystone = Keystone::start().await;
    let service = keystone.token("glance", "service").await;
    let reader = keystone.token("reader1", "p1").await;
    assert_eq!((keystone.logins(), keystone.validations()), (2, 0));

    let client = keystone.client(Some(&service));
    let answer = client.send(client.request("GET", "/auth/tokens").header("X-Subject-Token", &reader)).await;
    let token = answer.expect(200).json()["token"].clone();
    assert_eq!(token["user"]["name"], "reader1");
    assert_eq!(token["project"]["name"], "p1");
    let roles: Vec<_> = token["roles"].as_array().unwrap().iter().map(|role| &role["name"]).collect();
    assert_eq!(roles, ["reader"]);
    assert_eq!(keystone.validations(), 1);

    keystone.revoke(&reader).await;
    assert_eq!(validate(&keystone, &service, &reader).await, 404);
    assert_eq!(validate(&keystone, &service, "nonsense").await, 404);
    assert_eq!(keystone.validations(), 3);

    keystone.freeze().await;
    let silent = keystone.client(None);
    let silent = silent.try_send(silent.request("GET", "").timeout(Duration::from_millis(300))).await;
    assert!(silent.unwrap_err().is_timeout());
    keystone.thaw().await;
    keystone.client(None).get("").await.expect(200);

    keystone.kill().await;
    let gone = keystone.client(None);
    assert!(gone.try_send(gone.request("GET", "")).await.is_err());
    keystone.start_again().await;
    assert_eq!(validate(&keystone, &service, &service).await, 200);
}

#[tokio::test]
async fn keystone_issues_tokens_of_every_scope() {
    let keystone = Keystone::start().await;
    let service = keystone.token("glance", "service").await;
    let client = keystone.client(Some(&service));
    for (token, has, has_not) in [
        (keystone.token("member2", "p2").await, "project", "system"),
        (keystone.unscoped_token("member1").await, "user", "project"),
        (keystone.system_token().await, "system", "project"),
        (keystone.domain_token().await, "domain", "project"),
    ] {
        let answer = client.send(client.request("GET", "/auth/tokens").header("X-Subject-Token", token)).await;
        let token = answer.expect(200).json()["token"].clone();
        assert!(!token[has].is_null() && token[has_not].is_null(), "{has}, {has_not}: {token}");
    }
}

#[tokio::test]
async fn keystone_expires_tokens_and_lists_the_image_endpoint() {
    let keystone = Keystone::start_with(&[("token", "expiration", "2")]).await;
    keystone.image_endpoint("http://127.0.0.1:1").await;
    let member = keystone.token("member1", "p1").await;
    let catalog = keystone.client(Some(&member)).get("/auth/catalog").await.expect(200);
    assert!(catalog.text.contains("\"http://127.0.0.1:1\""), "{}", catalog.text);
    eventually("the token expires", || async {
        // The service uses a new token each time, because its tokens expire as well.
        let service = keystone.token("glance", "service").await;
        (validate(&keystone, &service, &member).await == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn openstack_logs_in_with_a_password() {
    let keystone = Keystone::start().await;
    keystone.image_endpoint("http://127.0.0.1:1").await;
    // The client writes a cache into its home directory.
    let home = tempfile::tempdir().unwrap();
    let openstack = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-clients/bin/openstack");
    let mut openstack = Command::new(openstack);
    openstack.args(["catalog", "show", "image"]).env_clear().env("HOME", home.path());
    let output = openstack.envs(keystone.environment("reader1", "p1")).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("public: http://127.0.0.1:1"), "{text}{errors}");
    assert_eq!((keystone.logins(), keystone.validations()), (1, 0));
}

#[tokio::test]
async fn glance_creates_and_shows_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    let mut glance = Glance::start(&database).await;
    let image = glance.member("p1").create_image(&json!({"name": "from Glance", "tags": ["red"]})).await;
    assert_eq!(glance.member("p1").tags(&image).await, ["red"]);
    assert_eq!(glance.reader("p1").get(&image).await.expect(200).json()["owner"], "p1");
    glance.member("p2").get(&image).await.expect(404);
    glance.admin().get(&image).await.expect(200);
    glance.anonymous().get(&image).await.expect(401);
    assert_eq!(database.count("SELECT count(*) FROM images").await, 1);
    glance.kill().await;
    glance.start_again().await;
    glance.member("p1").get(&image).await.expect(200);
}

#[tokio::test]
async fn glance_creates_databases_of_older_releases() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    Glance::sync_to(&database, &["wallaby_contract01"]).await;
    assert_eq!(
        database.count("SELECT count(*) FROM alembic_version WHERE version_num = 'wallaby_contract01'").await,
        1
    );
    let tables = match database.engine {
        Engine::Sqlite => "SELECT count(*) FROM sqlite_master WHERE name = 'cached_images'",
        Engine::Postgres => "SELECT count(*) FROM information_schema.tables WHERE table_name = 'cached_images'",
        Engine::MySql => {
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND table_name = 'cached_images'"
        }
    };
    assert_eq!(database.count(tables).await, 0);
    // Halfway through a rolling upgrade.
    Glance::sync_to(&database, &["2024_1_expand01"]).await;
    assert_eq!(database.count("SELECT count(*) FROM alembic_version").await, 2);
    assert_eq!(database.count(tables).await, 1);
}
