//! The real clients (`openstack`, `glance` and `curl`) against the real server, with commands as a user types them.

use std::process::Command;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Keystone, ServerBuilder, TestServer, Web};

const IMAGE: &str = "4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90";

/// A shell with the clients, in which a user of a server is logged in.
pub(crate) struct Shell {
    pub(crate) server: TestServer,
    pub(crate) environment: Vec<(&'static str, String)>,
    _programs: TempDir,
}

impl Shell {
    /// A shell with these variables in its environment.
    pub(crate) fn with(server: TestServer, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let programs = programs();
        let path = format!("{}:{}", programs.path().display(), Self::path());
        let mut environment = vec![("PATH", path)];
        environment.extend(variables);
        Self { server, environment, _programs: programs }
    }

    /// The demo user of a standalone server, without a login.
    async fn start() -> Self {
        Self::start_with(TestServer::builder()).await
    }

    /// Like [`Self::start`], with further options.
    async fn start_with(builder: ServerBuilder) -> Self {
        let server = builder.option("glimpse", "auth", "standalone").start().await;
        // The first start created the user; this command sets a known password.
        Self::identity(&server, "printf 'pass for demo'", "passwd demo");
        let variables = [
            ("OS_AUTH_TYPE", "http_basic".to_owned()),
            ("OS_ENDPOINT", format!("{}/v2", server.base)),
            ("OS_USERNAME", "demo".to_owned()),
            ("OS_PASSWORD", "pass for demo".to_owned()),
            ("TOKEN", STANDARD.encode("demo:pass for demo")),
            ("BASE", server.base.clone()),
        ];
        let shell = Self::with(server, variables);
        // A change by another process takes effect within a second.
        for _ in 0..50 {
            if shell.try_run("openstack image list").0 {
                return shell;
            }
        }
        panic!("{}", shell.try_run("openstack image list").1);
    }

    /// Runs `glimpse identity` with a password that a command prints.
    fn identity(server: &TestServer, password: &str, arguments: &str) {
        let line = format!("{password} | \"$0\" \"$@\" identity {arguments} --password-stdin");
        let program = server.command(&["--data-dir"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).arg(program.get_program()).args(program.get_args()).arg(server.data_dir());
        assert!(shell.output().unwrap().status.success());
    }

    /// The `PATH` with the clients' own programs.
    fn path() -> String {
        let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-clients/bin");
        assert!(std::path::Path::new(clients).join("openstack").exists(), "run tests/install first");
        format!("{clients}:{}", std::env::var("PATH").unwrap())
    }

    pub(crate) fn try_run(&self, line: &str) -> (bool, String) {
        let variables = self.environment.iter().map(|(name, value)| (*name, value.as_str()));
        let output = Command::new("sh")
            .args(["-c", line])
            .env_clear()
            .env("HOME", self.server.data_dir())
            .envs(variables)
            .output();
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), text)
    }

    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        let (success, text) = self.try_run(line);
        assert!(success, "{line}: {text}");
        text
    }

    /// Runs a command line that must fail, and returns its output.
    #[track_caller]
    pub(crate) fn refuse(&self, line: &str) -> String {
        let (success, text) = self.try_run(line);
        assert!(!success, "{line} should fail: {text}");
        text
    }

    fn shown(&self) -> Value {
        serde_json::from_str(&self.run("openstack image show demo -f json")).unwrap()
    }
}

/// A folder with programs `openstack` and `glance` that are loaded once for all tests (tests/loaded.py).
fn programs() -> TempDir {
    const HOME: &str = env!("CARGO_MANIFEST_DIR");
    let dir = tempfile::tempdir().unwrap();
    for program in ["openstack", "glance"] {
        let run = format!("'{HOME}/target/test-clients/bin/python3' -IS '{HOME}/tests/loaded.py' {program}");
        let path = dir.path().join(program);
        std::fs::write(&path, format!("#!/bin/sh\nexec {run} \"$@\"\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    dir
}

/// `<&-` closes standard input: otherwise a client without a terminal uploads its standard input.
#[tokio::test]
async fn openstack_and_curl_add_and_remove_tags() {
    let shell = Shell::start().await;
    shell.run(&format!(
        "openstack image create --id {IMAGE} --tag aaaa --tag bbbb --property os_distro=debian demo <&-"
    ));
    let image = shell.shown();
    assert_eq!(image["tags"], serde_json::json!(["aaaa", "bbbb"]));
    assert_eq!(image["properties"]["os_distro"], "debian");
    assert_eq!((&image["owner"], &image["status"]), (&Value::from("demo"), &Value::from("queued")));
    shell.run("openstack image unset --tag aaaa demo");
    assert_eq!(shell.shown()["tags"], serde_json::json!(["bbbb"]));
    let says = shell.refuse("openstack image unset --tag aaaa demo");
    assert!(says.contains("aaaa"), "{says}");
    let curl = "curl -s -o /dev/null -w '%{http_code}' -u \"$OS_USERNAME:$OS_PASSWORD\"";
    let tags = format!("$OS_ENDPOINT/images/{IMAGE}/tags");
    assert_eq!(shell.run(&format!("{curl} -X PUT {tags}/cccc")), "204");
    assert_eq!(shell.shown()["tags"], serde_json::json!(["bbbb", "cccc"]));
    assert_eq!(shell.run(&format!("{curl} -X DELETE {tags}/cccc")), "204");
    assert_eq!(shell.run(&format!("{curl} -X DELETE {tags}/cccc")), "404");
    assert_eq!(shell.run(&format!("{curl} -X DELETE {tags}/a=b")), "400");
    assert_eq!(shell.run(&format!("curl -s -o /dev/null -w '%{{http_code}}' -X DELETE {tags}/bbbb")), "401");
    assert_eq!(shell.shown()["tags"], serde_json::json!(["bbbb"]));
    shell.run("openstack image list --tag bbbb | grep demo");
    shell.run("openstack image delete demo");
    assert_eq!(shell.run("openstack image list -f value").trim(), "");
}

/// Uses `admin_token`, keystoneauth's other plugin for a server without Keystone.
#[tokio::test]
async fn openstack_works_with_a_static_token() {
    let shell = Shell::start().await;
    let login = "OS_AUTH_TYPE=admin_token OS_TOKEN=\"$TOKEN\" env -u OS_USERNAME -u OS_PASSWORD";
    let listed = shell.run(&format!("{login} openstack image list -f value"));
    assert_eq!(listed.trim(), "");
    let wrong = shell.refuse(&format!("TOKEN=d3Jvbmc=; {login} openstack image list"));
    assert!(wrong.contains("401"), "{wrong}");
}

/// The lines that `glimpse identity` prints and writes, in a shell that is logged in elsewhere.
#[tokio::test]
async fn openstack_logs_in_with_the_printed_lines_and_with_the_written_clouds_yaml() {
    let shell = Shell::start().await;
    let program = shell.server.command(&[]);
    let arguments = program.get_args().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let data = shell.server.data_dir().display().to_string();
    let identity = format!(
        "OS_GLANCE_CONFIG_DIR=/dev/null OS_DEFAULT__PUBLIC_ENDPOINT=$BASE {} {arguments} --data-dir {data} identity",
        program.get_program().display()
    );
    let until_it_counts = |list: &str| format!("for n in $(seq 20); do {list} && exit 0; sleep 0.3; done; exit 1");
    let list = until_it_counts("openstack image list");
    shell.run(&format!(
        "export OS_TOKEN=wrong OS_CLOUD=nosuch && cd {data} && {identity} passwd demo > lines && bash -c '. ./lines; {list}'"
    ));
    // The program that finds the file itself.
    let path = Shell::path();
    let list = until_it_counts(&format!("env -i HOME=\"$HOME\" PATH='{path}' openstack --os-cloud demo image list"));
    shell.run(&format!("cd {data} && {identity} clouds-yaml demo && {list}"));
}

#[tokio::test]
async fn glance_adds_and_removes_tags() {
    let shell = Shell::start().await;
    let glance = "glance --os-image-url \"$BASE\" --os-auth-token \"$TOKEN\"";
    let created = shell.run(&format!("{glance} image-create --name demo --tags aaaa bbbb --id {IMAGE} <&-"));
    assert!(created.contains("queued") && created.contains("demo"), "{created}");
    shell.run(&format!("{glance} image-tag-update {IMAGE} cccc"));
    shell.run(&format!("{glance} image-tag-delete {IMAGE} aaaa"));
    let shown = shell.run(&format!("{glance} image-show {IMAGE}"));
    assert!(shown.contains("bbbb") && shown.contains("cccc") && !shown.contains("aaaa"), "{shown}");
    // The client must be able to parse the error: it prints the message instead of crashing.
    let gone = shell.refuse(&format!("{glance} image-tag-delete {IMAGE} aaaa"));
    assert!(gone.contains("could not be found") && !gone.contains("Traceback"), "{gone}");
    let wrong = shell.refuse(&format!("{glance} image-tag-update {IMAGE} a=b"));
    assert!(wrong.contains("must not contain"), "{wrong}");
    let listed = shell.run(&format!("{glance} image-list"));
    assert!(listed.contains(IMAGE), "{listed}");
    shell.run(&format!("{glance} image-delete {IMAGE}"));
    let listed = shell.run(&format!("{glance} image-list"));
    assert!(!listed.contains(IMAGE), "{listed}");
}

/// Logs in through a real Keystone, as users of a cloud do.
#[tokio::test]
async fn openstack_and_glance_log_in_with_a_password() {
    let keystone = Keystone::start().await;
    let server = crate::keystone::with(&keystone).start().await;
    keystone.image_endpoint(&server.base).await;
    let mut shell = Shell::with(server, keystone.environment("member1", "p1"));
    shell.environment.push(("OS_REGION_NAME", "RegionOne".to_owned()));
    // The folder is also the user's home directory.
    let home = shell.server.data_dir();
    let inside = format!("mkdir -p {0} && cd {0}", home.display());
    shell.run(&format!("{inside} && head -c 3000000 /dev/urandom > disk.raw"));
    // Runs with a terminal, as for a user: with this login, the client misinterprets a closed standard input.
    let create = "openstack image create --file disk.raw --disk-format raw --tag aaaa --tag bbbb demo";
    shell.run(&format!("{inside} && script -qec '{create}' /dev/null"));
    shell.run(&format!("{inside} && openstack image save --file copy.raw demo && cmp disk.raw copy.raw"));
    shell.run(&format!(
        "glance image-create --id {IMAGE} --name other --disk-format raw --container-format bare <&- && {inside} && \
         glance image-upload --file disk.raw {IMAGE} && glance image-download --file second.raw {IMAGE} && \
         cmp disk.raw second.raw && glance image-delete {IMAGE}"
    ));
    shell.run("openstack image unset --tag aaaa demo");
    assert_eq!(shell.shown()["tags"], serde_json::json!(["bbbb"]));
    shell.run("openstack image list -f value -c Name | grep demo");
    let other = "OS_USERNAME=member2 OS_PROJECT_NAME=p2";
    let hidden = shell.refuse(&format!("{other} openstack image show demo"));
    assert!(hidden.contains("No Image found for demo"), "{hidden}");
    let id = shell.shown()["id"].as_str().unwrap().to_owned();
    let refused = shell.refuse(&format!("OS_USERNAME=reader1 openstack image unset --tag bbbb {id}"));
    assert!(refused.contains("Failed to unset 1 of 1 tags"), "{refused}");
    assert_eq!(shell.shown()["tags"], serde_json::json!(["bbbb"]));
    shell.run("openstack image delete demo");
}

/// The user must see the reason, not a page of HTML.
#[tokio::test]
async fn openstack_reports_that_a_keystone_limit_is_exceeded() {
    let cloud = crate::limits::Cloud::start().await;
    cloud.register("image_count_total", 1).await;
    let server = cloud.configure(crate::keystone::with(&cloud.keystone)).start().await;
    cloud.keystone.image_endpoint(&server.base).await;
    let shell = Shell::with(server, cloud.keystone.environment("member1", "p1"));
    let create = |name: &str| format!("script -qec 'openstack image create {name}' /dev/null");
    shell.run(&create("first"));
    let says = shell.refuse(&create("second"));
    assert!(says.contains("image_count_total is over limit of 1 due to current usage 1 and delta 1"), "{says}");
    assert!(says.contains("413") && !says.contains("Traceback") && !says.contains("<h1>"), "{says}");
    shell.run("openstack image delete first");
    shell.run(&create("second"));
}

/// Two projects share an image, as users of a cloud do it.
#[tokio::test]
async fn openstack_shares_an_image_between_projects() {
    let keystone = Keystone::start().await;
    let server = crate::keystone::with(&keystone).start().await;
    keystone.image_endpoint(&server.base).await;
    let mut shell = Shell::with(server, keystone.environment("member1", "p1"));
    shell.environment.push(("OS_REGION_NAME", "RegionOne".to_owned()));
    shell.run("script -qec 'openstack image create --shared demo' /dev/null");
    let id = shell.shown()["id"].as_str().unwrap().to_owned();
    let other = "OS_USERNAME=member2 OS_PROJECT_NAME=p2";
    let project = shell.run(&format!("{other} openstack token issue -f value -c project_id")).trim().to_owned();
    shell.refuse(&format!("{other} openstack image show {id}"));
    let added = shell.run(&format!("openstack image add project demo {project} -f value -c status"));
    assert_eq!(added.trim(), "pending");
    let list = "openstack image member list demo -f value";
    assert_eq!(shell.run(list).trim(), format!("{id} {project} pending"));
    let again = shell.refuse(&format!("openstack image add project demo {project}"));
    assert!(again.contains("is duplicated for image"), "{again}");
    for (flag, status) in [("--accept", "accepted"), ("--reject", "rejected"), ("--pending", "pending")] {
        shell.run(&format!("{other} openstack image set {flag} {id}"));
        assert_eq!(shell.run(list).trim(), format!("{id} {project} {status}"));
    }
    assert_eq!(shell.run(&format!("{other} openstack image show {id} -f value -c name")).trim(), "demo");
    let refused = shell.refuse(&format!("openstack image set --accept --project {project} demo"));
    assert!(refused.contains("modify_member"), "{refused}");
    let refused = shell.refuse(&format!("{other} openstack image remove project {id} {project}"));
    assert!(refused.contains("delete_member"), "{refused}");
    shell.run(&format!("openstack image remove project demo {project}"));
    assert_eq!(shell.run(list).trim(), "");
    shell.refuse(&format!("{other} openstack image show {id}"));
}

/// `glance` writes members with the schema `member`; here `curl` does.
#[tokio::test]
async fn glance_and_curl_share_an_image_between_projects() {
    let shell = Shell::start().await;
    Shell::identity(&shell.server, "printf 'pass for other'", "add other --project p2");
    let glance = |user: &str, line: &str| {
        let token = STANDARD.encode(format!("{user}:pass for {user}"));
        format!("glance --os-image-url \"$BASE\" --os-auth-token {token} {line}")
    };
    let in_time = (0..50).any(|_| shell.try_run(&glance("other", "image-list")).0);
    assert!(in_time, "{}", shell.try_run(&glance("other", "image-list")).1);
    shell.run(&glance("demo", &format!("image-create --name demo --id {IMAGE} <&-")));
    let members = format!("\"$OS_ENDPOINT/images/{IMAGE}/members");
    let curl = |user: &str, body: &str| format!("curl -sf -u '{user}:pass for {user}' -d '{body}'");
    shell.run(&format!("{} {members}\"", curl("demo", "{\"member\": \"p2\"}")));
    assert!(shell.run(&glance("other", &format!("image-show {IMAGE}"))).contains("demo"));
    shell.run(&format!("{} -X PUT {members}/p2\"", curl("other", "{\"status\": \"accepted\"}")));
    let refused = shell.refuse(&glance("other", &format!("member-delete {IMAGE} p2")));
    assert!(refused.contains("delete_member"), "{refused}");
    shell.run(&glance("demo", &format!("member-delete {IMAGE} p2")));
    let hidden = shell.refuse(&glance("other", &format!("image-show {IMAGE}")));
    assert!(hidden.contains(IMAGE), "{hidden}");
}

/// Exercises the Python objects that programs use, with `tests/objects.py`.
#[tokio::test]
async fn the_python_client_libraries_manage_images() {
    let shell = Shell::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/objects.py");
    shell.run(&format!("python3 -W ignore {script}"));
}

/// A user adds a location with `glance` and with openstacksdk, and a service lists it. The clients block the thread of the test.
#[tokio::test(flavor = "multi_thread")]
async fn glance_and_openstacksdk_add_and_list_locations() {
    let web = Web::start(&[("/a", "200 OK\r\nContent-Length: 5\r\n\r\nhello")]).await;
    let builder = TestServer::builder().option("import_filtering_opts", "allowed_hosts", "[127.0.0.1]").option(
        "import_filtering_opts",
        "allowed_ports",
        "[]",
    );
    let shell = Shell::start_with(builder).await;
    Shell::identity(&shell.server, "printf 'pass for nova'", "add nova --project demo --role service --role reader");
    let glance = |user: &str, line: &str| {
        let token = STANDARD.encode(format!("{user}:pass for {user}"));
        format!("glance --os-image-url \"$BASE\" --os-auth-token {token} {line}")
    };
    let in_time = (0..50).any(|_| shell.try_run(&glance("nova", "image-list")).0);
    assert!(in_time, "{}", shell.try_run(&glance("nova", "image-list")).1);
    let url = format!("{}/a", web.base());
    let create = |name: &str| {
        glance("demo", &format!("image-create --name {name} --disk-format raw --container-format bare <&-"))
    };
    shell.run(&create("first"));
    shell.run(&create("second"));
    let id = |name: &str| shell.run(&format!("openstack image show {name} -f value -c id")).trim().to_owned();
    let (first, second) = (id("first"), id("second"));
    shell.run(&glance("demo", &format!("add-location --url {url} {first}")));
    let sdk = "import openstack, sys; image = openstack.connect(load_envvars=True, load_yaml_config=False).image; \
        image.add_image_location(sys.argv[1], sys.argv[2])";
    shell.run(&format!("python3 -W ignore -c '{sdk}' {second} {url}"));
    for image in [&first, &second] {
        let is_active = |_| shell.run(&format!("openstack image show {image} -f value -c status")).trim() == "active";
        assert!((0..50).any(is_active), "{}", shell.server.log());
        let list = "import openstack, sys; image = openstack.connect(load_envvars=True, load_yaml_config=False).image; \
            print(*[one.url for one in image.image_locations(sys.argv[1])])";
        let login = "OS_USERNAME=nova OS_PASSWORD=\"pass for nova\"";
        assert_eq!(shell.run(&format!("{login} python3 -W ignore -c '{list}' {image}")).trim(), url);
        let refused = shell.refuse(&format!("python3 -W ignore -c '{list}' {image}"));
        assert!(refused.contains("fetch_image_location"), "{refused}");
    }
    let active = shell.refuse(&glance("demo", &format!("add-location --url {url} {first}")));
    assert!(active.contains("not allowed to add locations if image status is active"), "{active}");
    let wrong = shell.refuse(&glance("demo", &format!("add-location --url http://169.254.169.254/ {first}")));
    assert!(!wrong.contains("Traceback"), "{wrong}");
}

/// Uploads and downloads data with the real clients, and compares hashes.
#[tokio::test]
async fn openstack_glance_and_curl_transfer_image_data() {
    let shell = Shell::start().await;
    let dir = shell.server.data_dir();
    shell.run(&format!("head -c 3000000 /dev/urandom > {}/disk.raw", dir.display()));
    let inside = format!("cd {}", dir.display());
    shell.run(&format!("{inside} && openstack image create --file disk.raw --disk-format raw --tag aaaa demo"));
    let image = shell.shown();
    assert_eq!((&image["status"], &image["size"]), (&Value::from("active"), &Value::from(3_000_000)));
    shell.run(&format!("{inside} && openstack image save --file copy.raw demo && cmp disk.raw copy.raw"));
    let id = image["id"].as_str().unwrap();
    let glance = "glance --os-image-url \"$BASE\" --os-auth-token \"$TOKEN\"";
    shell.run(&format!("{inside} && {glance} image-download --file second.raw {id} && cmp disk.raw second.raw"));
    shell
        .run(&format!("{glance} image-create --id {IMAGE} --name other --disk-format raw --container-format bare <&-"));
    shell.run(&format!("{inside} && {glance} image-upload --file disk.raw {IMAGE}"));
    let curl = "curl -sf -u \"$OS_USERNAME:$OS_PASSWORD\"";
    shell.run(&format!("{inside} && {curl} $OS_ENDPOINT/images/{IMAGE}/file | cmp disk.raw -"));
    let again = shell.refuse(&format!("{inside} && {glance} image-upload --file disk.raw {IMAGE}"));
    assert!(!again.contains("Traceback"), "{again}");
    shell.run("openstack image delete demo");
    shell.run(&format!("{glance} image-delete {IMAGE}"));
    let left = std::fs::read_dir(shell.server.data_dir().parent().unwrap().join("images")).unwrap().count();
    assert_eq!(left, 0);
}

/// All methods of import, as users and programs choose them. The web server needs a thread while a client runs.
#[tokio::test(flavor = "multi_thread")]
async fn openstack_glance_and_openstacksdk_import_images() {
    let dir = tempfile::tempdir().unwrap();
    let data = crate::data::bytes(3_000_000);
    let (port, _) = crate::import::web(vec![crate::import::page(&data)]).await;
    let builder = crate::import::with_stores(dir.path(), port).file("policy.yaml", "copy_image: '@'\n");
    let shell = Shell::start_with(builder).await;
    std::fs::write(dir.path().join("disk.raw"), &data).unwrap();
    let inside = format!("cd {}", dir.path().display());
    let is_in = |image: &str, stores: &str| {
        let expected = (Value::from("active"), Value::from(stores));
        let mut shown = (Value::Null, Value::Null);
        for _ in 0..20 {
            let json = shell.run(&format!("openstack image show {image} -f json"));
            let json: Value = serde_json::from_str(&json).unwrap();
            shown = (json["status"].clone(), json["properties"]["stores"].clone());
            if shown == expected {
                let folder = if stores.starts_with("fs") { "images" } else { "second" };
                let path = dir.path().join(folder).join(json["id"].as_str().unwrap());
                return assert!(std::fs::read(path).unwrap() == data, "{image}");
            }
        }
        panic!("{image}: {shown:?}");
    };
    let described = "--disk-format raw --container-format bare";
    shell.run(&format!("openstack image create {described} staged <&-"));
    shell.run(&format!("{inside} && openstack image stage --file disk.raw staged"));
    shell.run("openstack image import --method glance-direct staged");
    is_in("staged", "fs");
    shell.run(&format!("openstack image create {described} web <&-"));
    let from = format!("http://127.0.0.1:{port}/x");
    shell.run(&format!("openstack image import --method web-download --uri {from} --all-stores web"));
    is_in("web", "fs,second");
    shell.run("openstack image import --method copy-image staged --store second");
    is_in("staged", "fs,second");
    let glance = "glance --os-image-url \"$BASE\" --os-auth-token \"$TOKEN\"";
    let via = format!("{inside} && {glance} image-create-via-import {described}");
    shell.run(&format!("{via} --id {IMAGE} --import-method glance-direct --file disk.raw <&-"));
    is_in(IMAGE, "fs");
    let second = IMAGE.replace("4ca", "5ca");
    shell.run(&format!("{via} --id {second} --import-method web-download --uri {from} --stores second <&-"));
    is_in(&second, "second");
    let tasks = shell.run(&format!("{glance} image-tasks {IMAGE}"));
    assert!(tasks.contains("success"), "{tasks}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/objects.py");
    shell.run(&format!("{inside} && URL={from} python3 -W ignore {script} imports"));
}

/// `admin` manages the catalogue, and `demo` reads it.
#[tokio::test]
async fn openstack_and_glance_manage_metadata_definitions() {
    let shell = Shell::start().await;
    Shell::identity(&shell.server, "printf 'pass for admin'", "passwd admin");
    let openstack =
        |line: &str| format!("OS_USERNAME=admin OS_PASSWORD='pass for admin' openstack image metadef {line}");
    let token = STANDARD.encode("admin:pass for admin");
    let glance = |line: &str| format!("glance --os-image-url \"$BASE\" --os-auth-token {token} {line}");
    let in_time = (0..50).any(|_| shell.try_run(&openstack("namespace list")).0);
    assert!(in_time, "{}", shell.try_run(&openstack("namespace list")).1);

    shell.run(&openstack("namespace create --public --description 'a b' --protected OS::Test"));
    shell.run(&openstack("namespace set --public --unprotected --display-name Tests OS::Test"));
    shell.run(&openstack("resource type association create OS::Test OS::Glance::Image"));
    shell.run(&openstack(
        "property create --name p --title P --type string --schema '{\"enum\": [\"a\", \"b\"]}' OS::Test",
    ));
    shell.run(&openstack("property set --title Q OS::Test p"));
    shell.run(&openstack("object create --namespace OS::Test o"));
    shell.run(&openstack("object update --name o2 OS::Test o"));
    let shown = shell.run("openstack image metadef namespace show OS::Test -f json");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["display_name"], &shown["visibility"]), (&Value::from("Tests"), &Value::from("public")));
    assert!(
        shell.run("openstack image metadef namespace list --resource-types OS::Glance::Image").contains("OS::Test")
    );
    assert!(shell.run("openstack image metadef property show OS::Test p").contains('Q'));
    assert!(shell.run("openstack image metadef object list OS::Test").contains("o2"));
    assert!(shell.run("openstack image metadef resource type list").contains("OS::Glance::Image"));
    let refused = shell.refuse("openstack image metadef namespace delete OS::Test");
    assert!(refused.contains("delete_metadef_namespace"), "{refused}");

    let shown = shell.run(&glance("md-namespace-show OS::Test"));
    assert!(shown.contains("OS::Glance::Image") && shown.contains("Tests"), "{shown}");
    shell.run(&glance("md-tag-create-multiple --names x,y OS::Test"));
    shell.run(&glance("md-tag-create --name z OS::Test"));
    shell.run(&glance("md-tag-update --name w OS::Test z"));
    let tags = shell.run(&glance("md-tag-list OS::Test"));
    assert!(["w", "x", "y"].iter().all(|tag| tags.contains(&format!("| {tag} "))), "{tags}");
    shell.run(&glance("md-tag-delete OS::Test w"));
    assert!(shell.refuse(&glance("md-tag-show OS::Test w")).contains("Could not find metadata tag w"));
    assert!(shell.run(&glance("md-property-show OS::Test p")).contains('Q'));
    shell.run(&glance("md-property-create --name r --title R --type integer --schema '{}' OS::Test"));
    shell.run(&glance("md-property-update --title S OS::Test r"));
    assert!(shell.run(&glance("md-property-list OS::Test")).contains("| r    | S "));
    shell.run(&glance("md-property-delete OS::Test r"));
    let schema = "'{\"properties\": {\"x\": {\"title\": \"X\", \"type\": \"integer\"}}}'";
    shell.run(&glance(&format!("md-object-create --name of-glance --schema {schema} OS::Test")));
    assert!(shell.run(&glance("md-object-property-show OS::Test of-glance x")).contains("integer"));
    let shown = shell.run("openstack image metadef object property show OS::Test of-glance x -f json");
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["title"], "X");
    assert!(shell.refuse(&glance("md-object-property-show OS::Test of-glance y")).contains("y not found"));
    shell.run(&glance("md-object-update --name again OS::Test of-glance"));
    assert!(shell.run(&glance("md-object-list OS::Test")).contains("again"));
    let shown = shell.run(&glance("md-object-show OS::Test again"));
    assert!(shown.contains("again") && shown.contains("[\"x\"]"), "{shown}");
    shell.run(&glance("md-object-delete OS::Test again"));
    assert!(shell.run(&glance("md-namespace-update --description 'c d' OS::Test")).contains("c d"));
    shell.run(&glance("md-resource-type-associate --name OS::Nova::Flavor --prefix hw: OS::Test"));
    assert!(shell.run(&glance("md-namespace-resource-type-list OS::Test")).contains("OS::Nova::Flavor"));
    let associations = shell.run("openstack image metadef resource type association list OS::Test");
    assert!(associations.contains("OS::Nova::Flavor"), "{associations}");
    shell.run(&openstack("resource type association delete OS::Test OS::Nova::Flavor"));
    assert!(shell.run(&glance("md-resource-type-list")).contains("OS::Nova::Flavor"));
    shell.run(&openstack("namespace set --public --tag v OS::Test"));
    shell.run(&openstack("namespace unset --tag x OS::Test"));
    let tags = shell.run(&glance("md-tag-list OS::Test"));
    assert!(tags.contains("| v ") && tags.contains("| y ") && !tags.contains("| x "), "{tags}");
    shell.run(&openstack("property delete OS::Test p"));
    shell.run(&openstack("object delete OS::Test o2"));
    let shown = shell.run(&glance("md-namespace-show OS::Test"));
    assert!(
        shown.contains("OS::Glance::Image") && !shown.contains("o2") && !shown.contains("OS::Nova::Flavor"),
        "{shown}"
    );
    let definition = "{\"namespace\": \"OS::Imported\", \"visibility\": \"public\", \"properties\": {\"q\": {\"title\": \"Q\", \
                      \"type\": \"integer\"}}, \"objects\": [{\"name\": \"o\", \"required\": [\"a\"]}], \"tags\": [{\"name\": \"t\"}]}";
    let file = shell.server.data_dir().join("definition.json");
    std::fs::write(&file, definition).unwrap();
    shell.run(&glance(&format!("md-namespace-import --file {}", file.display())));
    assert!(shell.run(&glance("md-namespace-list")).contains("OS::Imported"));
    shell.run(&glance("md-namespace-tags-delete OS::Test"));
    shell.run(&glance("md-namespace-properties-delete OS::Test"));
    shell.run(&glance("md-namespace-objects-delete OS::Test"));
    shell.run(&glance("md-resource-type-deassociate OS::Test OS::Glance::Image"));
    shell.run(&openstack("namespace delete OS::Test"));
    shell.run(&glance("md-namespace-delete OS::Imported"));
    // What remains is part of a standalone server.
    let listed = shell.run("openstack image metadef namespace list -f value -c namespace");
    assert!(listed.lines().count() > 3 && listed.lines().all(|name| name.starts_with("Glimpse::")), "{listed}");
}

#[tokio::test]
async fn horizons_own_calls_manage_metadata_definitions() {
    let shell = Shell::start().await;
    Shell::identity(&shell.server, "printf 'pass for admin'", "passwd admin");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let python = format!("{root}target/test-horizon/bin/python");
    assert!(std::path::Path::new(&python).exists(), "run tests/install first");
    let token = STANDARD.encode("admin:pass for admin");
    let list = format!("glance --os-image-url \"$BASE\" --os-auth-token {token} md-namespace-list");
    let in_time = (0..50).any(|_| shell.try_run(&list).0);
    assert!(in_time, "{}", shell.try_run(&list).1);
    let script =
        format!("PYTHONDONTWRITEBYTECODE=1 {python} -W ignore {root}tests/horizon_metadefs.py \"$BASE\" {token}");
    assert!(shell.run(&script).contains("done\n"));
}
