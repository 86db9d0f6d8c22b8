//! The real clients, with a plain password, against a standalone server: they log in at Glimpse itself.

use std::process::Command;

use serde_json::{Value, json};

use crate::{
    clients::Shell,
    identity_api::{password_of, standalone},
    support::{Answer, Client, Running, TestServer},
};

/// A shell with the variables that `glimpse identity` prints for a user of this server.
fn logged_in(server: TestServer, user: &str, project: &str) -> Shell {
    let variables = [
        ("OS_AUTH_TYPE", "password"),
        ("OS_AUTH_URL", &format!("{}/v3", server.base)),
        ("OS_PROJECT_NAME", project),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
        ("OS_USERNAME", user),
        ("OS_PASSWORD", &password_of(user)),
    ];
    let variables = variables.map(|(name, value)| (name, value.to_owned()));
    Shell::with(server, variables)
}

async fn start() -> Shell {
    logged_in(standalone().start().await, "member1", "p1")
}

/// Assigns the variables of another user, in front of a command.
fn other(user: &str, project: &str) -> String {
    format!("OS_USERNAME={user} OS_PASSWORD='{}' OS_PROJECT_NAME={project}", password_of(user))
}

#[tokio::test]
async fn openstack_issues_and_revokes_a_token_and_lists_the_catalog() {
    let shell = start().await;
    let issued: Value = serde_json::from_str(&shell.run("openstack token issue -f json")).unwrap();
    assert_eq!((&issued["user_id"], &issued["project_id"]), (&json!("member1"), &json!("p1")));
    let token = issued["id"].as_str().unwrap();
    let base = &shell.server.base;
    let catalog: Value = serde_json::from_str(&shell.run("openstack catalog list -f json")).unwrap();
    let types: Vec<&str> = catalog.as_array().unwrap().iter().map(|entry| entry["Type"].as_str().unwrap()).collect();
    assert_eq!(types, ["identity", "image"]);
    assert!(shell.run("openstack catalog show image").contains(&format!("public: {base} ")));
    let client = Client::new(base, Some(token));
    client.get("/v2/images").await.expect(200);
    // The same token is a login of its own.
    let by_token = format!("OS_AUTH_TYPE=token OS_TOKEN={token} env -u OS_USERNAME -u OS_USER_DOMAIN_NAME");
    shell.run(&format!("{by_token} openstack image list"));
    shell.run(&format!("openstack token revoke {token}"));
    client.get("/v2/images").await.expect(401);
    shell.refuse(&format!("{by_token} openstack image list"));
    for wrong in ["OS_PASSWORD=wrong", "OS_USERNAME=nobody", "OS_PROJECT_NAME=p2", "OS_USER_DOMAIN_NAME=x"] {
        let says = shell.refuse(&format!("{wrong} openstack token issue"));
        assert!(says.contains("The request you have made requires authentication. (HTTP 401)"), "{says}");
    }
}

#[tokio::test]
async fn openstack_and_glance_store_and_share_images_without_a_keystone() {
    let shell = start().await;
    let inside = format!("cd {}", shell.server.data_dir().display());
    shell.run(&format!("{inside} && head -c 3000000 /dev/urandom > disk.raw"));
    let create = "openstack image create --file disk.raw --disk-format raw --shared demo";
    shell.run(&format!("{inside} && script -qec '{create}' /dev/null"));
    shell.run(&format!("{inside} && openstack image save --file copy.raw demo && cmp disk.raw copy.raw"));
    let added = shell.run("openstack image add project demo p2 -f value -c status -c member_id");
    assert_eq!(added.split_whitespace().collect::<Vec<_>>(), ["p2", "pending"]);
    let id = shell.run("openstack image show demo -f value -c id").trim().to_owned();
    let member2 = other("member2", "p2");
    shell.run(&format!("{member2} openstack image set --accept {id}"));
    assert_eq!(shell.run(&format!("{member2} openstack image list -f value -c Name")).trim(), "demo");
    let listed = shell.run("glance image-list");
    assert!(listed.contains(&id), "{listed}");
    shell.run("openstack image remove project demo p2");
    shell.refuse(&format!("{member2} openstack image show {id}"));
    // An admin sees which projects exist.
    let admin = other("admin", "admin");
    shell.run(&format!("{admin} openstack image add project {id} p2"));
    shell.refuse(&format!("{admin} openstack image add project {id} nosuch"));
}

/// The library of Terraform and Packer, with its own acceptance tests. One of them needs an image that exists.
#[tokio::test]
async fn gophercloud_passes_its_acceptance_tests() {
    let mut shell = start().await;
    shell.environment.push(("OS_DOMAIN_NAME", "Default".to_owned()));
    shell.environment.push(("OS_REGION_NAME", "RegionOne".to_owned()));
    let token = shell.run("env -u OS_DOMAIN_NAME openstack token issue -f value -c id");
    Client::new(&shell.server.base, Some(token.trim())).create_image(&json!({"name": "first"})).await;
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-gophercloud/images");
    assert!(std::path::Path::new(tests).exists(), "run tests/install first");
    let output = shell.run(&format!("{tests} -test.v -test.run TestImages"));
    assert!(output.matches("--- PASS: TestImages").count() >= 5 && !output.contains("--- SKIP"), "{output}");
    let output = shell.refuse(&format!("OS_PASSWORD=wrong {tests} -test.run TestImagesListEachPage"));
    assert!(output.contains("Authentication failed"), "{output}");
}

#[tokio::test]
async fn fog_and_libcloud_log_in_with_a_password() {
    let shell = start().await;
    let fog = r#"ruby -e '
        require "fog/openstack"
        images = Fog::OpenStack::Image.new(
          openstack_auth_url: ENV["OS_AUTH_URL"], openstack_username: ENV["OS_USERNAME"],
          openstack_api_key: ENV["OS_PASSWORD"], openstack_project_name: ENV["OS_PROJECT_NAME"],
          openstack_domain_name: "Default").images
        images.create(name: "from fog", disk_format: "raw", container_format: "bare").upload_data("data")
        puts images.map(&:name)'"#;
    assert_eq!(shell.run(fog).trim(), "from fog");
    let libcloud = r#"python3 -c '
import os
from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider
cloud = get_driver(Provider.OPENSTACK)(
    os.environ["OS_USERNAME"], os.environ["OS_PASSWORD"], ex_force_auth_url=os.environ["OS_AUTH_URL"].removesuffix("/v3"),
    ex_force_auth_version="3.x_password", ex_tenant_name=os.environ["OS_PROJECT_NAME"], ex_domain_name="Default",
    ex_force_service_region="RegionOne", api_version="2.2")
for image in cloud.list_images():
    print(image.name, image.extra["status"])'"#;
    assert_eq!(shell.run(libcloud).trim(), "from fog active");
}

/// Definitions for the image manager: an image with one version at a time, and one whose latest version has the plain name.
fn definitions(mirror: &str, versions: &[&str]) -> String {
    let image = |name: &str, multi: bool, versions: &[&str]| {
        let version = |version: &&str| json!({"version": version, "url": format!("{mirror}/{name}-{version}.raw"), "build_date": "BUILT"});
        json!({
            "name": name, "enable": true, "format": "raw", "login": "admin", "min_disk": 1, "min_ram": 64, "multi": multi,
            "status": "active", "visibility": "public", "tags": ["mirrored"],
            "meta": {
                "architecture": "x86_64", "hw_disk_bus": "virtio", "hypervisor_type": "qemu", "os_distro": "debian",
                "os_purpose": "minimal", "replace_frequency": "monthly", "uuid_validity": "none",
                "provided_until": "none",
            },
            "versions": versions.iter().map(version).collect::<Vec<_>>(),
        })
    };
    let images = json!({"images": [image("small", false, &["13"]), image("rolling", true, versions)]});
    // JSON is YAML, but has no dates.
    images.to_string().replace("\"BUILT\"", "2026-01-01")
}

/// The image manager of OSISM, with a mirror on this machine.
#[tokio::test(flavor = "multi_thread")]
async fn openstack_image_manager_imports_images_from_a_mirror_once() {
    let data = crate::data::bytes(3_000_000);
    let (port, requests) = crate::import::web(vec![crate::import::page(&data)]).await;
    let dir = tempfile::tempdir().unwrap();
    let builder = standalone()
        .option("DEFAULT", "node_staging_uri", format!("file://{}", dir.path().display()))
        .option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]")
        .option("import_filtering_opts", "allowed_ports", format!("[{port}]"));
    let shell = logged_in(builder.start().await, "admin", "admin");
    let token = shell.run("openstack token issue -f value -c id");
    let admin = Client::new(&shell.server.base, Some(token.trim()));
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-image-manager/bin/python3");
    assert!(std::path::Path::new(python).exists(), "run tests/install first");
    let file = dir.path().join("images.yml");
    // It looks at an image that is being imported every ten seconds; the test does not wait for that long.
    let program = "import time; sleep = time.sleep; time.sleep = lambda seconds: sleep(min(seconds, 2)); \
        from openstack_image_manager.main import main; main()";
    let manage = |versions: &[&str]| {
        std::fs::write(&file, definitions(&format!("http://127.0.0.1:{port}"), versions)).unwrap();
        shell.run(&format!("{python} -W ignore -c '{program}' --images {} --prefetch never", file.display()))
    };
    let downloads = || requests.lock().unwrap().iter().filter(|head| head.starts_with("get ")).count();
    let listing = async || {
        let mut images = admin.get("/v2/images?sort=name:asc").await.expect(200).json()["images"].take();
        images
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|image| image["tags"].as_array_mut().unwrap().sort_by_key(Value::to_string));
        images
    };
    let names = |images: &Value| -> Vec<String> {
        images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    };

    let log = manage(&["1"]);
    let images = listing().await;
    assert_eq!(names(&images), ["rolling", "small 13"], "{log}");
    for image in images.as_array().unwrap() {
        let state = ["status", "visibility", "size", "min_disk", "os_distro"].map(|key| &image[key]);
        assert_eq!(
            state,
            [&json!("active"), &json!("public"), &json!(3_000_000), &json!(1), &json!("debian")],
            "{log}"
        );
        assert_eq!(image["tags"], json!(["managed_by_osism", "mirrored", "os:debian"]));
        let path = shell.server.data_dir().parent().unwrap().join("images").join(image["id"].as_str().unwrap());
        assert!(std::fs::read(path).unwrap() == data, "{image}");
    }
    assert_eq!(downloads(), 2, "{log}");

    let log = manage(&["1"]);
    assert_eq!((listing().await, downloads()), (images, 2), "{log}");

    let log = manage(&["1", "2"]);
    let images = listing().await;
    assert_eq!(
        (names(&images), downloads()),
        (vec!["rolling".into(), "rolling (1)".into(), "small 13".into()], 3),
        "{log}"
    );
    assert_eq!([&images[0]["internal_version"], &images[1]["internal_version"]], [&json!("2"), &json!("1")], "{log}");
}

/// A browser, as far as Horizon notices.
struct Browser {
    client: Client,
    cookies: Vec<(String, String)>,
}

impl Browser {
    async fn get(&mut self, path: &str) -> Answer {
        self.send(self.client.request("GET", path)).await
    }

    /// As a script of a page asks.
    async fn get_api(&mut self, path: &str) -> Answer {
        self.send(self.client.request("GET", path).header("X-Requested-With", "XMLHttpRequest")).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client.request("POST", path).body(body);
        self.send(request.header("Content-Type", "application/x-www-form-urlencoded")).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = self.client.send(request.header("Cookie", cookies.join("; "))).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().trim().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
        answer
    }

    /// The hidden field that each form has.
    fn form_token(page: &Answer) -> String {
        let at = page.text.find("name=\"csrfmiddlewaretoken\" value=\"").unwrap();
        page.text[at..].split('"').nth(3).unwrap().to_owned()
    }

    /// Sends the form of a login page.
    async fn log_in(&mut self, page: &Answer, user: &str, password: &str) -> Answer {
        let form = Self::form_token(page);
        let fields = [("csrfmiddlewaretoken", form.as_str()), ("region", "default"), ("username", user)];
        self.post("/auth/login/", &[&fields[..], &[("password", password)]].concat()).await
    }
}

#[tokio::test]
async fn horizon_logs_in_and_shows_the_images_of_the_project() {
    let shell = start().await;
    let base = shell.server.base.clone();
    let token = shell.run("openstack token issue -f value -c id");
    Client::new(&base, Some(token.trim())).create_image(&json!({"name": "in horizon"})).await;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let python = format!("{root}target/test-horizon/bin/python");
    assert!(std::path::Path::new(&python).exists(), "run tests/install first");
    let mut command = Command::new(python);
    command.arg(format!("{root}tests/horizon_server.py")).arg(format!("{base}/v3"));
    command.env_clear().env("HOME", shell.server.data_dir()).env("PYTHONDONTWRITEBYTECODE", "1");
    let horizon = Running::start(command, None).await;
    let mut browser = Browser { client: Client::new(&horizon.base, None), cookies: Vec::new() };
    let page = browser.get("/auth/login/").await.expect(200);
    let refused = browser.log_in(&page, "member1", "wrong").await.expect(200);
    assert!(refused.text.contains("Invalid credentials."), "{}", horizon.log());
    browser.get_api("/api/keystone/user-session/").await.expect(401);
    browser.log_in(&refused, "member1", "pass for member1").await.expect(302);
    let session = browser.get_api("/api/keystone/user-session/").await.expect(200).json();
    assert_eq!((&session["username"], &session["project_name"]), (&json!("member1"), &json!("p1")));
    assert!(session["token"].as_str().unwrap().starts_with("glimpse1."), "{session}");
    let images = browser.get_api("/api/glance/images/").await.expect(200).json();
    assert_eq!((&images["items"][0]["name"], &images["items"][0]["owner"]), (&json!("in horizon"), &json!("p1")));
    let page = browser.get("/project/images/").await.expect(200);
    browser.post("/auth/logout/", &[("csrfmiddlewaretoken", &Browser::form_token(&page))]).await.expect(302);
    browser.get_api("/api/keystone/user-session/").await.expect(401);
    // Horizon, which sends `Forwarded: for=…`, is not taken for a proxy whose headers should be used.
    assert!(!shell.server.log().contains("which is ignored"), "{}", shell.server.log());
}
