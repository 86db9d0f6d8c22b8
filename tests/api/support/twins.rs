//! A Glimpse and a real Glance that receive the same requests, each with its own database.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Client, Database, Glance, ServerBuilder, TestServer};

/// The identity of a request to both servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persona {
    Anonymous,
    Admin,
    Member(&'static str),
    /// A service with a token of a project.
    Service(&'static str),
    /// A member, on whose behalf a service sends the request.
    ByService(&'static str),
    Reader(&'static str),
}

/// The two servers.
pub(crate) struct Twins {
    pub(crate) ours: TestServer,
    pub(crate) theirs: Glance,
    their_database: Database,
    differences: Mutex<Vec<String>>,
    asked: AtomicUsize,
    _dir: TempDir,
}

/// Differences fail the test only at its end, so that all of them are reported.
impl Drop for Twins {
    fn drop(&mut self) {
        let differences = std::mem::take(&mut *self.differences.lock().unwrap());
        if !std::thread::panicking() {
            assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
        }
    }
}

/// A request that is sent to both servers.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) persona: Persona,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
    ignored: &'static [&'static str],
    ignored_header: Option<&'static str>,
    verbatim: bool,
}

impl Question {
    pub(crate) fn new(persona: Persona, method: &'static str, path: impl Into<String>) -> Self {
        let headers = vec![("Accept", "application/json".to_owned())];
        Self {
            persona,
            method,
            path: path.into(),
            headers,
            body: None,
            ignored: &[],
            ignored_header: None,
            verbatim: false,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").text(&body.to_string())
    }

    /// In the newer dialect of JSON Patch.
    pub(crate) fn patch(self, operations: &Value) -> Self {
        self.header("Content-Type", "application/openstack-images-v2.1-json-patch").text(&operations.to_string())
    }

    pub(crate) fn text(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    /// Excludes this header of the response from the comparison.
    pub(crate) fn ignoring_header(self, name: &'static str) -> Self {
        Self { ignored_header: Some(name), ..self }
    }

    /// Excludes these keys of the response's JSON from the comparison.
    pub(crate) fn ignoring(self, keys: &'static [&'static str]) -> Self {
        Self { ignored: keys, ..self }
    }

    /// Compares the body byte for byte, except times.
    pub(crate) fn verbatim(self) -> Self {
        Self { verbatim: true, ..self }
    }

    async fn put_to(&self, client: &Client) -> Answer {
        let mut request = client.request(self.method, &self.path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        client.send(request).await
    }
}

/// The headers that clients read, which are compared.
const COMPARED: [&str; 8] = [
    "content-type",
    "location",
    "allow",
    "accept-patch",
    "retry-after",
    "www-authenticate",
    "content-range",
    "content-md5",
];

/// The parts of a response that a client can observe, without the parts that are specific to each server.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Seen {
    fn of(answer: &Answer, base: &str, question: &Question) -> Self {
        let header = |name: &&'static str| {
            let value = answer.headers.get(*name)?.to_str().ok()?;
            Some((*name, value.replace(base, "")))
        };
        let body = match serde_json::from_str::<Value>(&answer.text) {
            Ok(_) if question.verbatim => without_times(&answer.text),
            Ok(mut json) => {
                normalise(&mut json);
                if let Value::Object(object) = &mut json {
                    object.retain(|key, _| !question.ignored.contains(&key.as_str()));
                }
                json.to_string()
            }
            Err(_) => answer.text.clone(),
        };
        Self {
            status: answer.status.as_u16(),
            headers: COMPARED.iter().filter_map(header).collect(),
            body: body.replace(base, ""),
        }
    }
}

/// Replaces what has the form `2026-11-29T13:48:08Z`.
fn without_times(text: &str) -> String {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:ddZ";
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at + FORM.len() <= bytes.len() {
        let window = &bytes[at..at + FORM.len()];
        let is_time = window.iter().zip(FORM).all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            form => byte == form,
        });
        if is_time {
            bytes[at..at + FORM.len()].fill(b'#');
        }
        at += if is_time { FORM.len() } else { 1 };
    }
    String::from_utf8(bytes).unwrap()
}

/// Removes times and stores, and sorts tags and the parts of namespaces, which Glance returns in no defined order.
fn normalise(json: &mut Value) {
    match json {
        Value::Object(object) => {
            object.shift_remove("stores");
            for (name, value) in object.iter_mut() {
                match (name.as_str(), &mut *value) {
                    ("created_at" | "updated_at", Value::String(time)) => *time = "a time".to_owned(),
                    ("tags", Value::Array(tags)) => tags.sort_by_key(Value::to_string),
                    ("objects" | "resource_types" | "resource_type_associations", Value::Array(items)) => {
                        items.iter_mut().for_each(normalise);
                        items.sort_by_key(Value::to_string);
                    }
                    _ => normalise(value),
                }
            }
            // The order of custom properties depends on the engine.
            object.sort_keys();
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

impl Twins {
    pub(crate) async fn start() -> Self {
        Self::start_with(TestServer::builder()).await
    }

    /// Starts both servers, Glimpse with this configuration and Glance with its defaults.
    pub(crate) async fn start_with(builder: ServerBuilder) -> Self {
        Self::start_alike(builder, &[], &[]).await
    }

    /// Starts both servers with these additional options (group, name, value) and files (name, text).
    pub(crate) async fn start_alike(
        builder: ServerBuilder,
        options: &[(&str, &str, &str)],
        files: &[(&str, &str)],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path()).await;
        Glance::sync(&database).await;
        let theirs = Glance::start_with(&database, options, files).await;
        let ours = options.iter().fold(builder, |ours, (group, name, value)| ours.option(group, name, value));
        let ours = files.iter().fold(ours, |ours, (name, text)| ours.file(name, text));
        Self {
            ours: ours.start().await,
            theirs,
            their_database: database,
            differences: Mutex::default(),
            asked: AtomicUsize::default(),
            _dir: dir,
        }
    }

    fn clients(&self, persona: Persona) -> (Client, Client) {
        let (ours, theirs) = (&self.ours, &self.theirs);
        match persona {
            Persona::Anonymous => (ours.anonymous(), theirs.anonymous()),
            Persona::Admin => (ours.admin(), theirs.admin()),
            Persona::Member(project) => (ours.member(project), theirs.member(project)),
            Persona::Service(project) => {
                let token = format!("nova:{project}:service");
                (ours.client(Some(&token)), theirs.client("nova", project, "service"))
            }
            Persona::ByService(project) => (
                ours.member(project).with_headers(&[("X-Service-Token", "nova:services:service")]),
                theirs.member(project).with_headers(&[("X-Service-Roles", "service")]),
            ),
            Persona::Reader(project) => (ours.reader(project), theirs.reader(project)),
        }
    }

    /// Runs a statement on both databases.
    pub(crate) async fn both(&self, sql: &str) {
        self.ours.database.execute(sql).await;
        self.their_database.execute(sql).await;
    }

    /// Runs a query for pairs of texts on both databases, first on Glimpse's.
    pub(crate) async fn pairs(&self, sql: &str) -> (Vec<(String, String)>, Vec<(String, String)>) {
        (self.ours.database.pairs(sql).await, self.their_database.pairs(sql).await)
    }

    /// The number of requests so far.
    pub(crate) fn request_count(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Sends a request to both servers, and returns what a client can observe: first Glimpse's response, then Glance's.
    pub(crate) async fn ask(&self, question: &Question) -> (Seen, Seen) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = self.clients(question.persona);
        let (left, right) = tokio::join!(question.put_to(&ours), question.put_to(&theirs));
        let see = |answer: &Answer, base: &str| {
            let mut seen = Seen::of(answer, base, question);
            seen.headers.retain(|(name, _)| Some(*name) != question.ignored_header);
            seen
        };
        (see(&left, &self.ours.base), see(&right, &self.theirs.base()))
    }

    /// Sends a request to both servers. If the responses differ, the test fails at its end. Returns Glimpse's status.
    pub(crate) async fn same(&self, question: &Question) -> u16 {
        let (ours, theirs) = self.ask(question).await;
        if ours != theirs {
            let difference = format!("{question:?}\n  ours:   {ours:?}\n  theirs: {theirs:?}");
            self.differences.lock().unwrap().push(difference);
        }
        ours.status
    }
}
