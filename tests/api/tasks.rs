//! Tasks: who sees them, listings, and their expiry.

use serde_json::{Value, json};

use crate::{
    data::{id, waiting_image},
    support::{Client, TestServer},
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
        (json!({"type": "import", "input": {}}), "This server does not create tasks"),
    ] {
        let answer = admin.post("/v2/tasks", &body).await.expect(400);
        assert!(answer.text.contains(message), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn expired_tasks_are_marked_as_deleted() {
    let (s, _) = with_tasks().await;
    let _other = TestServer::builder().option("glimpse", "heartbeat", "0.1").database(s.database.clone()).start().await;
    let marked = format!("SELECT COUNT(*) FROM tasks WHERE deleted = {} AND id = '{EXPIRED}'", s.database.truth());
    crate::support::eventually("it is marked", || async { (s.database.count(&marked).await == 1).then_some(()) }).await;
    let deleted = format!("SELECT COUNT(*) FROM tasks WHERE deleted = {}", s.database.truth());
    assert_eq!(s.database.count(&deleted).await, 2);
}
