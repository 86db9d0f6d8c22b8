//! Tasks: creation, who sees them, listings, and their expiry.

use serde_json::{Value, json};

use crate::{
    data::{download, files, id, waiting_image},
    import::{nothing_is_left, page, web, with_stores},
    support::{Client, TestServer, eventually},
};

const FIRST: &str = "10000000-0000-4000-8000-000000000000";
const SECOND: &str = "20000000-0000-4000-8000-000000000000";
const THIRD: &str = "30000000-0000-4000-8000-000000000000";
const EXPIRED: &str = "40000000-0000-4000-8000-000000000000";
const DELETED: &str = "50000000-0000-4000-8000-000000000000";

/// A server with the tasks of an import of two projects, as Glance writes them.
async fn with_tasks() -> (TestServer, String) {
    let s = TestServer::start().await;
    let image = waiting_image(&s.member("p1")).await;
    let (yes, no) = (s.database.truth(), if s.database.truth() == "1" { "0" } else { "FALSE" });
    let tasks = [
        (FIRST, "p1", "success", "2024-01-01 00:00:01.000000", "'2999-01-01 00:00:00.000000'", no),
        (SECOND, "p1", "processing", "2024-01-01 00:00:02.000000", "NULL", no),
        (THIRD, "p2", "failure", "2024-01-01 00:00:02.000000", "'2999-01-01 00:00:00.000000'", no),
        (EXPIRED, "p1", "success", "2024-01-01 00:00:03.000000", "'2024-01-02 00:00:00.000000'", no),
        (DELETED, "p1", "success", "2024-01-01 00:00:04.000000", "NULL", yes),
    ];
    for (task, owner, status, time, expires, deleted) in tasks {
        s.database
            .execute(&format!(
                "INSERT INTO tasks (id, type, status, owner, expires_at, created_at, updated_at, deleted, image_id, \
                 request_id, user_id) VALUES ('{task}', 'api_image_import', '{status}', '{owner}', {expires}, '{time}', \
                 '{time}', {deleted}, '{}', 'req-1', 'u')",
                id(&image)
            ))
            .await;
        s.database
            .execute(&format!(
                "INSERT INTO task_info (task_id, input, result, message) VALUES \
                 ('{task}', '{{\"image_id\": \"x\"}}', NULL, 'Copied 1 MiB')"
            ))
            .await;
    }
    (s, image)
}

fn ids(page: &Value) -> Vec<&str> {
    page["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap()).collect()
}

async fn listed(client: &Client, query: &str) -> Vec<String> {
    let page = client.get(&format!("/v2/tasks{query}")).await.expect(200).json();
    ids(&page).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_task_is_shown_as_glance_shows_it() {
    let (s, image) = with_tasks().await;
    let task = s.admin().get(&format!("/v2/tasks/{FIRST}")).await.expect(200);
    let expected = format!(
        "{{\"id\": \"{FIRST}\", \"input\": {{\"image_id\": \"x\"}}, \"type\": \"api_image_import\", \"status\": \"success\", \
         \"owner\": \"p1\", \"message\": \"Copied 1 MiB\", \"result\": null, \"created_at\": \"2024-01-01T00:00:01Z\", \
         \"updated_at\": \"2024-01-01T00:00:01Z\", \"self\": \"/v2/tasks/{FIRST}\", \"schema\": \"/v2/schemas/task\", \
         \"image_id\": \"{}\", \"request_id\": \"req-1\", \"user_id\": \"u\", \"expires_at\": \"2999-01-01T00:00:00Z\"}}",
        id(&image)
    );
    assert_eq!(task.text, expected);
    for task in [EXPIRED, DELETED, "x", "60000000-0000-4000-8000-000000000000"] {
        s.admin().get(&format!("/v2/tasks/{task}")).await.expect(404).says(&format!("Could not find task {task}"));
    }
    let answer = s.admin().delete(&format!("/v2/tasks/{FIRST}")).await.expect(405);
    assert_eq!(answer.header("allow"), "GET");
    assert!(answer.text.contains("not permitted on Glance Tasks"), "{}", answer.text);
}

#[tokio::test]
async fn only_callers_whom_the_policy_allows_use_the_api_and_see_their_own_projects_tasks() {
    let (s, image) = with_tasks().await;
    let denied = s.member("p1").get("/v2/tasks").await.expect(403);
    denied.says("You are not authorized to complete tasks_api_access action.");
    // The tasks of an image need no such rule.
    let member = s.member("p1");
    let tasks = member.get(&format!("{image}/tasks")).await.expect(200).json();
    assert_eq!(ids(&tasks), [FIRST, SECOND]);
    let first = &tasks["tasks"][0];
    assert_eq!((&first["created_at"], &first["deleted"]), (&json!("2024-01-01T00:00:01.000000"), &json!(false)));
    assert_eq!(ids(&s.admin().get(&format!("{image}/tasks")).await.expect(200).json()), [FIRST, SECOND, THIRD]);
    member.get("/v2/images/x/tasks").await.expect(404);
    let s =
        TestServer::builder().file("policy.yaml", "tasks_api_access: '@'\n").database(s.database.clone()).start().await;
    assert_eq!(listed(&s.member("p1"), "").await, [SECOND, FIRST]);
    s.member("p1").get(&format!("/v2/tasks/{THIRD}")).await.expect(404);
    s.member("p1").get(&format!("/v2/tasks?marker={THIRD}")).await.expect(400);
}

#[tokio::test]
async fn tasks_are_listed_with_filters_in_pages() {
    let (s, _) = with_tasks().await;
    let admin = s.admin();
    assert_eq!(listed(&admin, "").await, [THIRD, SECOND, FIRST]);
    assert_eq!(listed(&admin, "?sort_dir=asc").await, [FIRST, SECOND, THIRD]);
    assert_eq!(listed(&admin, "?sort_key=status&sort_dir=asc").await, [THIRD, SECOND, FIRST]);
    assert_eq!(listed(&admin, "?status=success").await, [FIRST]);
    assert_eq!(listed(&admin, "?owner=p2").await, [THIRD]);
    assert_eq!(listed(&admin, "?type=import").await, [""; 0]);
    assert_eq!(listed(&admin, "?nonsense=x").await, [THIRD, SECOND, FIRST]);
    assert_eq!(listed(&admin, "?limit=0").await, [""; 0]);
    for key in ["id", "status", "owner", "created_at", "updated_at", "expires_at", "user_id"] {
        for direction in ["asc", "desc"] {
            let query = format!("?sort_key={key}&sort_dir={direction}");
            let (whole, mut page) = (listed(&admin, &query).await, format!("/v2/tasks{query}&limit=1"));
            let mut paged = Vec::new();
            loop {
                let answer = admin.get(&page).await.expect(200).json();
                paged.extend(ids(&answer).into_iter().map(str::to_owned));
                match answer["next"].as_str() {
                    Some(next) => page = next.to_owned(),
                    None => break,
                }
            }
            assert_eq!(whole, paged, "{query}");
        }
    }
    let page = admin.get("/v2/tasks?limit=1&status=success").await.expect(200).json();
    assert_eq!(page["first"], "/v2/tasks?limit=1&status=success");
    assert_eq!(page["next"], format!("/v2/tasks?limit=1&status=success&marker={FIRST}"));
    assert_eq!(page["tasks"][0].as_object().unwrap().len(), 9, "{page}");
}

#[tokio::test]
async fn invalid_requests_for_tasks_are_refused_with_glances_messages() {
    let s = TestServer::start().await;
    let admin = s.admin();
    for (query, message) in [
        ("sort_dir=up", "Invalid sort direction: up"),
        ("sort_key=nope", "Sort key supplied was not valid."),
        ("status=done", "Invalid status value: done"),
        ("type=api_image_import", "Invalid type value: api_image_import"),
        ("marker=x", "Invalid marker format"),
        ("marker=10000000-0000-4000-8000-000000000000", "Task with the given id"),
        ("limit=x", "limit param must be an integer"),
        ("limit=-1", "limit param must be positive"),
    ] {
        let answer = admin.get(&format!("/v2/tasks?{query}")).await.expect(400);
        assert!(answer.text.contains(message), "{query}: {}", answer.text);
    }
    for (body, message) in [
        (json!({}), "Task &#x27;type&#x27; is required"),
        (json!({"type": "import"}), "Task &#x27;input&#x27; is required"),
        (json!({"type": 5, "input": {}}), "does not match schema &#x27;task&#x27;"),
        (json!({"type": "export", "input": {}}), "does not match schema &#x27;task&#x27;"),
        (json!({"type": "import", "input": []}), "does not match schema &#x27;task&#x27;"),
        (json!({"type": "import", "input": null}), "Invalid location: None"),
        (json!({"type": "import", "input": {}}), "Invalid location: None"),
        (json!({"type": "import", "input": {"import_from": 5}}), "Invalid location: 5"),
        (
            json!({"type": "import", "input": {"import_from": "file:///etc/passwd"}}),
            "File based imports are not allowed",
        ),
        (json!({"type": "import", "input": {"import_from": "HTTP://a.example/"}}), "The given uri is not valid"),
        (
            json!({"type": "import", "input": {"import_from": "http://127.0.0.1/"}}),
            "URI for legacy import task does not pass filtering: http://127.0.0.1/",
        ),
        (json!({"type": "api_image_import", "input": null}), "Task &#x27;input&#x27; is required"),
        (json!({"type": "api_image_import", "input": {"image_id": 5}}), "is not the id of an image"),
    ] {
        let answer = admin.post("/v2/tasks", &body).await.expect(400);
        assert!(answer.text.contains(message), "{body}: {}", answer.text);
    }
    s.member("p1").post("/v2/tasks", &json!({})).await.expect(403);
}

/// Waits until a task has ended, and returns it.
pub(crate) async fn ended(client: &Client, task: &str) -> Value {
    eventually("the task has ended", || async {
        let shown = client.get(task).await.expect(200).json();
        ["success", "failure"].contains(&shown["status"].as_str()?).then_some(shown)
    })
    .await
}

/// A task that imports data from this machine.
pub(crate) fn import_task(port: u16, properties: &Value) -> Value {
    let from = format!("http://127.0.0.1:{port}/x");
    let input = json!({"import_from": from, "import_from_format": "raw", "image_properties": properties});
    json!({"type": "import", "input": input})
}

#[tokio::test]
async fn a_task_of_the_type_import_creates_an_image_with_data_from_a_web_server() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![page(b"abc")]).await;
    let s = with_stores(dir.path(), port).file("policy.yaml", "tasks_api_access: '@'\n").start().await;
    let member = s.member("p1");
    let properties =
        json!({"name": "new", "disk_format": "raw", "container_format": "bare", "tags": ["t"], "colour": "red"});
    let new = import_task(port, &properties);
    let created = member.post("/v2/tasks", &new).await.expect(201);
    let shown = created.json();
    let task = shown["self"].as_str().unwrap().to_owned();
    assert_eq!(created.header("location"), format!("{}{task}", s.base));
    assert_eq!((&shown["status"], &shown["owner"], &shown["message"]), (&json!("pending"), &json!("p1"), &json!("")));
    assert_eq!((&shown["input"], &shown["result"]), (&new["input"], &Value::Null));
    assert_eq!((shown.get("expires_at"), shown.get("image_id")), (None, None));
    let done = ended(&member, &task).await;
    assert_eq!((&done["status"], &done["message"]), (&json!("success"), &json!("")), "{done}");
    let image = format!("/v2/images/{}", done["result"]["image_id"].as_str().unwrap());
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["name"], &shown["status"], &shown["owner"]), (&json!("new"), &json!("active"), &json!("p1")));
    assert_eq!((&shown["tags"], &shown["colour"], &shown["stores"]), (&json!(["t"]), &json!("red"), &json!("fs")));
    assert_eq!(shown.as_object().unwrap().keys().filter(|name| name.starts_with("os_glance")).count(), 0);
    assert_eq!(download(&member, &image).await, b"abc");
    assert_eq!(listed(&member, "?type=import&status=success").await, [id(&task)]);
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn a_failed_import_task_leaves_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let no = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc".to_vec();
    let (port, _) = web(vec![no, cut, page(b"abc")]).await;
    let s = with_stores(dir.path(), port).start().await;
    let admin = s.admin();
    let described = json!({"disk_format": "raw", "container_format": "bare", "protected": true});
    let new = import_task(port, &described);
    let task = admin.post("/v2/tasks", &new).await.expect(201).json()["self"].as_str().unwrap().to_owned();
    let failed = ended(&admin, &task).await;
    assert_eq!((&failed["status"], &failed["result"]), (&json!("failure"), &Value::Null));
    assert_eq!(failed["message"], "The web server answers with 404 Not Found.");
    assert_eq!(
        s.database.count(&format!("SELECT COUNT(*) FROM images WHERE deleted = {}", s.database.truth())).await,
        1
    );
    assert_eq!(admin.get("/v2/images").await.json()["images"], json!([]));
    nothing_is_left(&s, dir.path()).await;
    // A truncated download is begun again.
    let task = admin.post("/v2/tasks", &new).await.expect(201).json()["self"].as_str().unwrap().to_owned();
    assert_eq!(ended(&admin, &task).await["status"], "success", "{}", s.log());
    assert_eq!(files(&dir.path().join("images")).len(), 1);
    nothing_is_left(&s, dir.path()).await;
}

/// The image is `saving` meanwhile: no upload can take it, also not while no process works on it.
#[tokio::test]
async fn an_import_task_survives_a_kill_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let stalled = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\naSTALL".to_vec();
    let (port, _) = web(vec![stalled, page(b"abc")]).await;
    let mut s = with_stores(dir.path(), port).start().await;
    let new = import_task(port, &json!({"disk_format": "raw", "container_format": "bare"}));
    let task = s.admin().post("/v2/tasks", &new).await.expect(201).json()["self"].as_str().unwrap().to_owned();
    let images = dir.path().join("images");
    eventually("the download is begun", || async { (!files(&images).is_empty()).then_some(()) }).await;
    s.kill();
    s.start_again().await;
    let admin = s.admin();
    let image = admin.get("/v2/images").await.json()["images"][0]["self"].as_str().unwrap().to_owned();
    while ended_status(&admin, &task).await.is_none() {
        let status = admin.get(&image).await.expect(200).json()["status"].clone();
        assert!(["saving", "active"].contains(&status.as_str().unwrap()), "{status}");
    }
    assert_eq!(ended(&admin, &task).await["status"], "success", "{}", s.log());
    assert_eq!(download(&admin, &image).await, b"abc");
    assert_eq!(files(&images), [id(&image)]);
    nothing_is_left(&s, dir.path()).await;
}

async fn ended_status(client: &Client, task: &str) -> Option<String> {
    let shown = client.get(task).await.expect(200).json();
    shown["status"].as_str().filter(|status| ["success", "failure"].contains(status)).map(str::to_owned)
}

#[tokio::test]
async fn deleting_its_image_ends_an_import_task() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _) = web(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\naSTALL".to_vec()]).await;
    let s = with_stores(dir.path(), port).start().await;
    let admin = s.admin();
    let new = import_task(port, &json!({"disk_format": "raw", "container_format": "bare"}));
    let task = admin.post("/v2/tasks", &new).await.expect(201).json()["self"].as_str().unwrap().to_owned();
    let image = admin.get("/v2/images").await.json()["images"][0]["self"].as_str().unwrap().to_owned();
    crate::data::upload(&admin, &image, "x").await.expect(409);
    admin.delete(&image).await.expect(204);
    assert_eq!(ended(&admin, &task).await["message"], "Image has been deleted, aborting import.");
    crate::import::is_empty(&dir.path().join("images")).await;
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn tasks_that_cannot_succeed_fail_with_glances_messages() {
    let s = TestServer::start().await;
    let admin = s.admin();
    let from = "http://a.example/x";
    let task = |kind: &str, input: Value| json!({"type": kind, "input": input});
    let import = |properties: Value| {
        let input = json!({"import_from": from, "import_from_format": "raw", "image_properties": properties});
        task("import", input)
    };
    let internal = "Task failed due to Internal Error";
    for (new, message) in [
        (task("import", json!({"import_from": from})), "Input does not contain 'import_from_format' field"),
        (
            task("import", json!({"import_from": from, "import_from_format": "raw"})),
            "Input does not contain 'image_properties' field",
        ),
        (import(json!({})), "Properties disk_format, container_format must be set prior to saving data."),
        (import(json!([])), "'image_properties' must be an object"),
        (import(json!({"id": "10000000-0000-4000-8000-000000000000"})), "Attribute 'id' is read-only."),
        (import(json!({"status": "active"})), "Attribute 'status' is read-only."),
        (task("api_image_import", json!({})), "Input to api_image_import task is empty."),
        (task("api_image_import", json!({"x": 1})), "Missing required 'image_id' field"),
        (task("api_image_import", json!({"image_id": "x"})), internal),
        (task("location_import", json!({})), "Input to location_import task is empty."),
        (task("location_import", json!({"image_id": "x"})), "Input does not contain 'loc_url' field"),
        (task("location_import", json!({"image_id": "x", "loc_url": from, "validation_data": {}})), internal),
    ] {
        let created = admin.post("/v2/tasks", &new).await.expect(201).json();
        assert_eq!((&created["status"], &created["message"]), (&json!("pending"), &json!("")), "{new}");
        let failed = ended(&admin, created["self"].as_str().unwrap()).await;
        assert_eq!((&failed["status"], &failed["message"]), (&json!("failure"), &json!(message)), "{new}");
        assert!(failed["expires_at"].is_string());
        assert_eq!(failed.get("image_id"), new["input"].get("image_id"));
    }
    for table in ["images", "glimpse_jobs"] {
        assert_eq!(s.database.count(&format!("SELECT COUNT(*) FROM {table}")).await, 0);
    }
}

#[tokio::test]
async fn expired_tasks_are_marked_as_deleted() {
    let (s, _) = with_tasks().await;
    let _other = TestServer::builder().option("glimpse", "heartbeat", "0.1").database(s.database.clone()).start().await;
    let marked = format!("SELECT COUNT(*) FROM tasks WHERE deleted = {} AND id = '{EXPIRED}'", s.database.truth());
    eventually("it is marked", || async { (s.database.count(&marked).await == 1).then_some(()) }).await;
    let deleted = format!("SELECT COUNT(*) FROM tasks WHERE deleted = {}", s.database.truth());
    assert_eq!(s.database.count(&deleted).await, 2);
}
