//! Limits in Keystone and quotas in options, compared with a real Glance on the same database and the same Keystone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    data::{upload, waiting_image},
    support::{Answer, Client, Database, Glance, Keystone, ServerBuilder, TestServer, eventually},
};

/// A server's options: group, name and value.
type Options = Vec<(&'static str, &'static str, String)>;

/// A Keystone, a client that is allowed to set limits there, and the service and endpoint that the limits belong to.
pub(crate) struct Cloud {
    pub(crate) keystone: Keystone,
    admin: Client,
    service: String,
    endpoint: String,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        Self::of(Keystone::start().await).await
    }

    async fn of(keystone: Keystone) -> Self {
        let admin = keystone.client(Some(&keystone.token("admin", "admin").await));
        let service = first(&admin, "/services?type=image", "services").await;
        let endpoint = first(&admin, &format!("/endpoints?service_id={service}&interface=public"), "endpoints").await;
        Self { keystone, admin, service, endpoint }
    }

    pub(crate) async fn project(&self, name: &str) -> String {
        first(&self.admin, &format!("/projects?name={name}"), "projects").await
    }

    /// Registers a limit for every project that has no limit of its own, and returns its path.
    pub(crate) async fn register(&self, resource: &str, limit: i64) -> String {
        let limit = self.limit(json!({"resource_name": resource, "default_limit": limit}));
        let made = self.admin.post("/registered_limits", &json!({"registered_limits": [limit]})).await.expect(201);
        format!("/registered_limits/{}", made.json()["registered_limits"][0]["id"].as_str().unwrap())
    }

    /// Sets the limit of one project, by its id.
    async fn limit_project(&self, project: &str, resource: &str, limit: i64) {
        let limit = self.limit(json!({"project_id": project, "resource_name": resource, "resource_limit": limit}));
        self.admin.post("/limits", &json!({"limits": [limit]})).await.expect(201);
    }

    fn limit(&self, mut limit: Value) -> Value {
        limit["service_id"] = json!(self.service);
        limit["region_id"] = json!("RegionOne");
        limit
    }

    async fn change(&self, registered: &str, limit: i64) {
        let body = json!({"registered_limit": {"default_limit": limit}});
        self.admin.send(self.admin.request("PATCH", registered).json(&body)).await.expect(200);
    }

    /// `[oslo_limit]` as operators write it, without the options that find the service's endpoint.
    fn login(&self) -> Options {
        let oslo_limit = |name, value: &str| ("oslo_limit", name, value.to_owned());
        vec![
            ("DEFAULT", "use_keystone_limits", "true".to_owned()),
            oslo_limit("auth_type", "password"),
            oslo_limit("auth_url", &self.keystone.url()),
            oslo_limit("username", "glance"),
            oslo_limit("password", "secret"),
            oslo_limit("user_domain_id", "default"),
            oslo_limit("project_name", "service"),
            oslo_limit("project_domain_name", "Default"),
        ]
    }

    fn options(&self) -> Options {
        let mut options = self.login();
        options.push(("oslo_limit", "endpoint_id", self.endpoint.clone()));
        options
    }

    pub(crate) fn configure(&self, builder: ServerBuilder) -> ServerBuilder {
        configured(builder, &self.options())
    }

    async fn server(&self) -> TestServer {
        self.configure(TestServer::builder()).start().await
    }

    async fn glance(&self, database: &Database) -> Glance {
        glance(database, &self.options()).await
    }
}

async fn first(client: &Client, path: &str, kind: &str) -> String {
    let found = client.get(path).await.expect(200).json();
    found[kind][0]["id"].as_str().unwrap_or_else(|| panic!("{path}: {found}")).to_owned()
}

fn configured(builder: ServerBuilder, options: &Options) -> ServerBuilder {
    options.iter().fold(builder, |builder, (group, name, value)| builder.option(group, name, value))
}

async fn glance(database: &Database, options: &Options) -> Glance {
    let options: Vec<_> = options.iter().map(|(group, name, value)| (*group, *name, value.as_str())).collect();
    Glance::start_with(database, &options, &[]).await
}

/// Compares the parts of two responses that a client can observe.
#[track_caller]
fn same(ours: &Answer, theirs: &Answer) {
    assert_eq!(ours.status, theirs.status, "{}: {} {}", ours.request, ours.text, theirs.text);
    assert_eq!(ours.text, theirs.text, "{}", ours.request);
    let kind = |answer: &Answer| answer.header("content-type").to_owned();
    assert_eq!(kind(ours), kind(theirs), "{}", ours.request);
}

/// Sends the same request to both servers in several response formats, and returns the text of the last response.
async fn refused_alike(ours: &Client, theirs: &Client, method: &str, path: &str, body: Option<&Value>) -> String {
    let mut says = String::new();
    for accept in ["*/*", "application/json", "text/plain"] {
        let send = async |client: &Client| {
            let mut request = client.request(method, path).header("Accept", accept);
            if method == "PATCH" {
                request = request.header("Content-Type", "application/openstack-images-v2.1-json-patch");
            }
            client.send(if let Some(body) = body { request.json(body) } else { request }).await
        };
        let answer = send(ours).await.expect(413);
        same(&answer, &send(theirs).await);
        says = answer.text;
    }
    says
}

/// Waits until the log contains this text, because the line may be written after the client has the response.
async fn logged(s: &TestServer, text: &str) {
    eventually("it is in the log", || std::future::ready(s.log().contains(text).then_some(()))).await;
}

#[tokio::test]
async fn the_number_of_images_is_limited_by_keystone() {
    let cloud = Cloud::start().await;
    cloud.register("image_count_total", 2).await;
    let (p1, p2, p3) = (cloud.project("p1").await, cloud.project("p2").await, cloud.project("admin").await);
    cloud.limit_project(&p2, "image_count_total", 3).await;
    cloud.limit_project(&p3, "image_count_total", -1).await;
    let s = cloud.server().await;
    let glance = cloud.glance(&s.database).await;
    for (project, limit) in [(&p1, 2), (&p2, 3)] {
        let (ours, theirs) = (s.member(project), glance.member(project));
        let mut last = String::new();
        for n in 0..limit {
            last = if n % 2 == 0 { &ours } else { &theirs }.create_image(&json!({})).await;
        }
        let says = refused_alike(&ours, &theirs, "POST", "/v2/images", Some(&json!({"tags": ["t"]}))).await;
        let expected = format!(
            "Project {project} is over a limit for [Resource image_count_total is over limit of {limit} due to current \
             usage {limit} and delta 1]"
        );
        assert!(says.contains(&expected), "{says}");
        // The policy is checked before the limits.
        s.reader(project).post("/v2/images", &json!({})).await.expect(403);
        // Deleting an image frees quota.
        ours.delete(&last).await.expect(204);
        theirs.create_image(&json!({})).await;
        ours.post("/v2/images", &json!({})).await.expect(413);
    }
    // A negative limit means unlimited.
    for n in 0..4 {
        let client = if n % 2 == 0 { s.member(&p3) } else { glance.member(&p3) };
        client.create_image(&json!({})).await;
    }
    // The limit of the caller's project applies, even if another project will own the image.
    s.admin().create_image(&json!({"owner": p1})).await;
    s.member(&p1).post("/v2/images", &json!({})).await.expect(413).says("current usage 3 and");
}

/// The limits on the amount of data and on concurrent uploads.
#[tokio::test]
async fn limits_on_uploads_are_enforced_as_in_glance() {
    let cloud = Cloud::start().await;
    for (resource, limit) in [("image_size_total", 1), ("image_count_total", 100), ("image_count_uploading", 1)] {
        cloud.register(resource, limit).await;
    }
    let s = cloud.server().await;
    let glance = cloud.glance(&s.database).await;
    let clients = [s.member("p1"), glance.member("p1")];
    let mebibyte = vec![0; 1 << 20];
    upload(&clients[0], &waiting_image(&clients[0]).await, mebibyte.clone()).await.expect(204);
    let refused = async |data: &[u8], resource: &str| {
        let mut answers = Vec::new();
        for client in &clients {
            let image = waiting_image(client).await;
            answers.push(upload(client, &image, data.to_vec()).await.expect(413));
            // The upload can be repeated.
            assert_eq!(client.get(&image).await.expect(200).json()["status"], "queued");
        }
        same(&answers[0], &answers[1]);
        let says = format!("over a limit for [Resource {resource} is over limit of 1 due to current usage");
        assert!(answers[0].text.contains(&says), "{}", answers[0].text);
    };
    refused(&mebibyte, "image_size_total").await;
    // Usage is counted in whole mebibytes, so a smaller image counts as zero.
    upload(&clients[0], &waiting_image(&clients[0]).await, "abc").await.expect(204);
    let other = waiting_image(&clients[0]).await;
    let other = other.rsplit('/').next().unwrap();
    s.database.execute(&format!("UPDATE images SET status = 'saving' WHERE id = '{other}'")).await;
    refused(b"abc", "image_count_uploading").await;
    // The limit applies per project.
    upload(&s.member("p2"), &waiting_image(&s.member("p2")).await, mebibyte).await.expect(204);
}

/// Each request fits into the limit when it begins.
#[tokio::test]
async fn concurrent_requests_cannot_exceed_a_unified_limit_together() {
    let cloud = Cloud::start().await;
    let size = cloud.register("image_size_total", 3).await;
    cloud.register("image_count_total", 12).await;
    cloud.register("image_count_uploading", 100).await;
    let s = cloud.server().await;
    let member = s.member("p1");
    // Twenty images are created at once, and there may be twelve.
    let body = json!({"disk_format": "raw", "container_format": "bare"});
    let created = (0..20).map(|_| {
        let (member, body) = (member.clone(), body.clone());
        tokio::spawn(async move { member.post("/v2/images", &body).await })
    });
    let mut images = Vec::new();
    for created in created.collect::<Vec<_>>() {
        let answer = created.await.unwrap();
        match answer.status.as_u16() {
            201 => images.push(format!("/v2/images/{}", answer.json()["id"].as_str().unwrap())),
            413 => drop(answer.says("Resource image_count_total is over limit of 12")),
            other => panic!("{other}: {}", answer.text),
        }
    }
    assert_eq!(images.len(), 12);
    // Twelve images of 1 MiB are uploaded at once, and 3 MiB may be stored.
    let mut waiting = Vec::new();
    let uploads = images.into_iter().map(|image| {
        let member = member.clone();
        tokio::spawn(async move { (upload(&member, &image, vec![0; 1 << 20]).await, image) })
    });
    for upload in uploads.collect::<Vec<_>>() {
        let (answer, image) = upload.await.unwrap();
        match answer.status.as_u16() {
            204 => {}
            413 => {
                answer.says("Resource image_size_total is over limit of 3");
                waiting.push(image);
            }
            other => panic!("{other}: {}", answer.text),
        }
    }
    assert_eq!(waiting.len(), 9, "more or less than 3 MiB are stored");
    // They wait for their data again, and are stored once they may be.
    cloud.change(&size, 4).await;
    upload(&member, &waiting[0], vec![0; 1 << 20]).await.expect(204);
    upload(&member, &waiting[1], vec![0; 1 << 20]).await.expect(413);
}

/// Without a registered limit, nothing is allowed.
#[tokio::test]
async fn resources_without_a_registered_limit_are_refused() {
    let cloud = Cloud::start().await;
    let s = cloud.server().await;
    let glance = cloud.glance(&s.database).await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    refused_alike(&ours, &theirs, "POST", "/v2/images", Some(&json!({}))).await;
    same(&ours.get("/v2/info/usage").await.expect(200), &theirs.get("/v2/info/usage").await);
    logged(&s, "no limit is registered with Keystone for our service").await;
}

/// Inserts images in every status, with and without data, locations, and copies in progress.
async fn fill(database: &Database, owner: Option<&str>) {
    let owner = owner.map_or("NULL".to_owned(), |owner| format!("'{owner}'"));
    let statuses =
        ["queued", "saving", "uploading", "importing", "active", "deactivated", "killed", "deleted", "pending_delete"];
    // The last size is the largest that the column holds, so the sum with others is larger.
    let sizes = ["NULL", "0", "1", "1048575", "3145729", "9223372036854775807"];
    let (when, mut images, mut locations, mut properties) = ("'2020-01-01 00:00:00'", vec![], vec![], vec![]);
    for (n, status) in statuses.iter().enumerate() {
        let deleted = i32::from(["deleted", "pending_delete"].contains(status));
        for (m, size) in sizes.iter().enumerate() {
            let id = format!("{:08x}-5c61-48ff-b4f3-0ad4e5e3ba90", rand::random::<u32>());
            images
                .push(format!("('{id}', '{status}', {size}, {when}, '{deleted}', 0, 0, 'shared', {owner}, '0', '0')"));
            let own: &[(&str, i32)] =
                [&[][..], &[("active", 0)], &[("active", 0), ("deleted", 1)], &[("pending_delete", 1), ("active", 0)]]
                    [(n + m) % 4];
            for (status, deleted) in own {
                locations.push(format!("('{id}', 'file:///x', '{{}}', '{status}', {when}, '{deleted}')"));
            }
            if let Some(to) = [None, Some(""), Some("fs,other")][(n + m) % 3] {
                properties.push(format!("('{id}', 'os_glance_importing_to_stores', '{to}', {when}, '0')"));
            }
            properties.push(format!("('{id}', 'other', 'x', {when}, '0')"));
        }
    }
    let image = "id, status, size, created_at, deleted, min_disk, min_ram, visibility, owner, protected, os_hidden";
    for (table, columns, rows) in [
        ("images", image, images),
        ("image_locations", "image_id, value, meta_data, status, created_at, deleted", locations),
        ("image_properties", "image_id, name, value, created_at, deleted", properties),
    ] {
        database.execute(&format!("INSERT INTO {table} ({columns}) VALUES {}", rows.join(", "))).await;
    }
}

#[tokio::test]
async fn usage_matches_glances_counts() {
    let cloud = Cloud::start().await;
    for (resource, limit) in
        [("image_size_total", 1000), ("image_stage_total", -1), ("image_count_total", 5), ("image_count_uploading", 10)]
    {
        cloud.register(resource, limit).await;
    }
    let p1 = cloud.project("p1").await;
    cloud.limit_project(&p1, "image_size_total", 7).await;
    let s = cloud.server().await;
    let glance = cloud.glance(&s.database).await;
    let empty = s.member("nobody").get("/v2/info/usage").await.expect(200);
    assert_eq!(
        empty.text,
        "{\"usage\": {\"image_size_total\": {\"usage\": 0, \"limit\": 1000}, \"image_stage_total\": {\"usage\": 0, \
         \"limit\": -1}, \"image_count_total\": {\"usage\": 0, \"limit\": 5}, \"image_count_uploading\": {\"usage\": 0, \
         \"limit\": 10}}}"
    );
    for owner in [Some(p1.as_str()), Some("filler"), None] {
        fill(&s.database, owner).await;
    }
    s.member("other").create_image(&json!({})).await;
    for (project, roles) in [(p1.as_str(), "reader"), (p1.as_str(), "admin"), ("other", "reader"), ("", "admin")] {
        let ours = s.client(Some(&format!("user:{project}:{roles}"))).get("/v2/info/usage").await.expect(200);
        let theirs = if project.is_empty() {
            let nowhere = [("X-Identity-Status", "Confirmed"), ("X-User-Id", "user"), ("X-Roles", roles)];
            Client::new(&glance.base(), None).with_headers(&nowhere).get("/v2/info/usage").await
        } else {
            glance.client("user", project, roles).get("/v2/info/usage").await
        };
        same(&ours, &theirs);
        let used = ours.json()["usage"]["image_size_total"]["usage"].as_u64().unwrap();
        // The sum in MiB exceeds what a sum of bytes in 64 bits can represent.
        assert_eq!(used > (1 << 43), project != "other", "{used}");
        // Glimpse does not stage data yet; data that a Glance has staged is counted.
        let staged = ours.json()["usage"]["image_stage_total"]["usage"].as_u64().unwrap();
        assert_eq!(staged > (1 << 43), project != "other", "{staged}");
    }
    // MySQL's collation treats both names as equal.
    let none = s.member("FILLER").get("/v2/info/usage").await.expect(200).json();
    assert_eq!(none["usage"]["image_count_total"]["usage"], 0);
}

#[tokio::test]
async fn usage_is_empty_without_keystone_limits() {
    let s = TestServer::start().await;
    let glance = Glance::start_synced(&s.database).await;
    let (ours, theirs) = (s.reader("p1"), glance.reader("p1"));
    let usage = ours.get("/v2/info/usage").await.expect(200);
    assert_eq!(usage.text, "{\"usage\": {}}");
    same(&usage, &theirs.get("/v2/info/usage").await);
    same(&ours.get("/v2/info/usage/x").await.expect(404), &theirs.get("/v2/info/usage/x").await);
}

#[tokio::test]
async fn a_changed_limit_takes_effect_at_the_next_request() {
    let cloud = Cloud::start().await;
    let registered = cloud.register("image_count_total", 1).await;
    let s = cloud.server().await;
    let member = s.member("p1");
    for limit in 1..4 {
        cloud.change(&registered, limit).await;
        member.create_image(&json!({})).await;
        member.post("/v2/images", &json!({})).await.expect(413);
    }
    // Concurrent requests share their queries: each of these needs four limits, of the project and of the registered ones.
    let questions = || cloud.keystone.requests().iter().filter(|line| line.contains("limits?")).count();
    let before = questions();
    let calls = (0..50).map(|_| {
        let client = s.member("p1");
        tokio::spawn(async move { client.get("/v2/info/usage").await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().expect(200);
    }
    let asked = questions() - before;
    assert!(asked < 50 * 8 / 2, "{asked} queries");
}

/// A burst of requests causes one request of each kind to Keystone, and a changed limit takes effect after a while.
#[tokio::test]
async fn limits_are_cached_if_the_operator_wants_it() {
    let cloud = Cloud::start().await;
    let registered = cloud.register("image_count_total", 1).await;
    let s = cloud.configure(TestServer::builder()).option("glimpse", "limits_cache_time", 10).start().await;
    let questions = || {
        let count = |what: &str| cloud.keystone.requests().iter().filter(|line| line.contains(what)).count();
        [count(" /v3/registered_limits?"), count(" /v3/limits?"), count(" /v3/limits/model"), cloud.keystone.logins()]
    };
    let before = questions();
    let calls = (0..50).map(|_| {
        let client = s.member("p1");
        tokio::spawn(async move { client.get("/v2/info/usage").await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().expect(200);
    }
    assert_eq!(questions(), before.map(|count| count + 1));
    let member = s.member("p1");
    member.create_image(&json!({})).await;
    member.post("/v2/images", &json!({})).await.expect(413);
    cloud.change(&registered, 2).await;
    let create = || async { (member.post("/v2/images", &json!({})).await.status == 201).then_some(()) };
    eventually("the new limit counts", create).await;
    member.post("/v2/images", &json!({})).await.expect(413);
}

#[tokio::test]
async fn limited_requests_are_refused_while_keystone_is_down() {
    let mut cloud = Cloud::start().await;
    cloud.register("image_count_total", 1000).await;
    let s = cloud.configure(TestServer::builder()).option("oslo_limit", "timeout", 2).start().await;
    let (member, other) = (s.member("p1"), s.member("p2"));
    let image = member.create_image(&json!({})).await;
    cloud.keystone.kill().await;
    let answer = member.post("/v2/images", &json!({})).await;
    answer.expect(503).header("retry-after").parse::<u32>().unwrap();
    let start = Instant::now();
    member.get("/v2/info/usage").await.expect(503).header("retry-after");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // Requests that are not limited still work.
    member.get(&image).await.expect(200);
    member.delete(&image).await.expect(204);
    logged(&s, "Keystone is unavailable").await;
    cloud.keystone.start_again().await;
    member.create_image(&json!({})).await;
    // Waiting for a frozen Keystone times out, and the request is refused.
    cloud.keystone.freeze().await;
    let start = Instant::now();
    other.post("/v2/images", &json!({})).await.expect(503).header("retry-after");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    cloud.keystone.thaw().await;
    let create = || async { (other.post("/v2/images", &json!({})).await.status == 201).then_some(()) };
    eventually("Keystone is back", create).await;
}

/// Valid and invalid ways to configure the endpoint whose limits apply.
#[tokio::test]
async fn the_service_endpoint_is_found_as_configured() {
    let cloud = Cloud::start().await;
    cloud.register("image_count_total", 100).await;
    let cases = [
        (vec![("endpoint_service_name", "glance"), ("endpoint_interface", "internalURL")], Ok(())),
        (vec![("endpoint_service_type", "image"), ("endpoint_region_name", "RegionOne")], Ok(())),
        (vec![("endpoint_service_type", "image"), ("endpoint_region_name", "Nowhere")], Err("knows no region Nowhere")),
        (vec![("endpoint_service_type", "volume")], Err("Keystone knows no such services")),
        (vec![("endpoint_id", "no/such?one")], Err("Keystone knows no endpoint no/such?one")),
    ];
    for (options, expected) in cases {
        let builder = configured(TestServer::builder(), &cloud.login());
        let builder = options.iter().fold(builder, |builder, (name, value)| builder.option("oslo_limit", name, value));
        let s = builder.start().await;
        let answer = s.member("p1").post("/v2/images", &json!({})).await;
        match expected {
            Ok(()) => drop(answer.expect(201)),
            // Glance also answers 500, because the operator must correct the configuration.
            Err(says) => {
                answer.expect(500);
                logged(&s, says).await;
            }
        }
    }
    // First a user with an admin role on the system, as in devstack; then a wrong password.
    let without = |name: &str| cloud.options().into_iter().filter(|option| option.1 != name).collect::<Options>();
    let system = configured(TestServer::builder(), &without("username"));
    let s = system.option("oslo_limit", "username", "admin").option("oslo_limit", "system_scope", "all").start().await;
    s.member("p1").create_image(&json!({})).await;
    let wrong = configured(TestServer::builder(), &without("password")).option("oslo_limit", "password", "wr0ng");
    let s = wrong.start().await;
    s.member("p1").post("/v2/images", &json!({})).await.expect(503).header("retry-after");
    logged(&s, "Keystone refuses the user of [oslo_limit]: 401").await;
    assert!(!s.log().contains("wr0ng"));
}

/// oslo.limit supports no other model, and Glance answers in the same way.
#[tokio::test]
async fn only_the_flat_enforcement_model_is_supported() {
    let keystone = Keystone::start_with(&[("unified_limit", "enforcement_model", "strict_two_level")]).await;
    let cloud = Cloud::of(keystone).await;
    cloud.register("image_count_total", 100).await;
    let s = cloud.server().await;
    let glance = cloud.glance(&s.database).await;
    same(
        &s.member("p1").post("/v2/images", &json!({})).await.expect(500),
        &glance.member("p1").post("/v2/images", &json!({})).await,
    );
    logged(&s, "enforcement model strict_two_level is not supported").await;
}

/// As in Glance, requests that need no limit work; those that need one are 500 there.
#[tokio::test]
async fn missing_limit_options_are_reported_at_start_and_where_a_limit_is_needed() {
    let login = [("auth_url", "http://127.0.0.1:1"), ("username", "u"), ("password", "s3cret"), ("endpoint_id", "e")];
    for (missing, says) in [
        ("auth_url", "[oslo_limit] auth_url is missing"),
        ("username", "[oslo_limit] username is missing"),
        ("password", "[oslo_limit] password is missing"),
        ("endpoint_id", "[oslo_limit] endpoint_id is missing"),
    ] {
        let others = login.iter().filter(|(name, _)| *name != missing);
        let builder =
            others.fold(TestServer::builder(), |builder, (name, value)| builder.option("oslo_limit", name, value));
        let s = builder.option("DEFAULT", "use_keystone_limits", true).start().await;
        assert!(s.log().contains(says) && s.log().contains("WARN"), "{}", s.log());
        let member = s.member("p1");
        member.get("/v2/images").await.expect(200);
        member.post("/v2/images", &json!({})).await.expect(503).header("retry-after");
        member.get("/v2/info/usage").await.expect(503).header("retry-after");
        logged(&s, "Keystone is unavailable").await;
        assert!(!s.log().contains("s3cret"), "{}", s.log());
    }
}

/// The quotas that are set by options, with Glance's error messages.
#[tokio::test]
async fn exceeded_quotas_are_answered_as_in_glance() {
    let quotas: Options =
        vec![("DEFAULT", "image_tag_quota", "2".to_owned()), ("DEFAULT", "image_property_quota", "1".to_owned())];
    let s = configured(TestServer::builder(), &quotas).start().await;
    let glance = glance(&s.database, &quotas).await;
    let (ours, theirs) = (s.member("p1"), glance.member("p1"));
    for body in [
        json!({"tags": ["a", "b", "c"]}),
        json!({"x": "1", "y": "2"}),
        json!({"tags": ["a", "b", "c"], "x": "1", "y": "2", "z": "3"}),
    ] {
        refused_alike(&ours, &theirs, "POST", "/v2/images", Some(&body)).await;
    }
    let image = theirs.create_image(&json!({"tags": ["a", "b"], "x": "1"})).await;
    // A repeated tag counts once; Glance counts it twice.
    ours.create_image(&json!({"tags": ["a", "b", "a"], "x": "1"})).await;
    refused_alike(&ours, &theirs, "PUT", &format!("{image}/tags/c"), None).await;
    for change in [
        json!([{"op": "replace", "path": "/tags", "value": ["a", "b", "c"]}]),
        json!([{"op": "add", "path": "/y", "value": "2"}]),
    ] {
        refused_alike(&ours, &theirs, "PATCH", &image, Some(&change)).await;
    }
    // Adding a tag that the image already has needs no quota.
    for client in [&ours, &theirs] {
        client.put(&format!("{image}/tags/b")).await.expect(204);
    }
    let none: Options = quotas.iter().map(|(group, name, _)| (*group, *name, "0".to_owned())).collect();
    let (s, glance) = (
        configured(TestServer::builder(), &none).database(s.database.clone()).start().await,
        self::glance(&s.database, &none).await,
    );
    let (ours, theirs) = (s.member("p2"), glance.member("p2"));
    for body in [json!({"tags": ["a"]}), json!({"x": "1"})] {
        refused_alike(&ours, &theirs, "POST", "/v2/images", Some(&body)).await;
    }
    let image = theirs.create_image(&json!({})).await;
    refused_alike(&ours, &theirs, "PUT", &format!("{image}/tags/c"), None).await;
}
