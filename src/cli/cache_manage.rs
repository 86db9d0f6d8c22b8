//! `glance-cache-manage`: manages the image cache of a running server through its API. Arguments, output and exit codes are Glance's.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
};

use clap::Parser;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::CommandResult;
use crate::error::with_causes;

const COMMANDS: &str = "\
Commands:
  help <command>            Output help for one of the commands
  list-cached               List all images currently cached
  list-queued               List all images currently queued for caching
  queue-image               Queue an image for caching
  delete-cached-image       Purges an image from the cache
  delete-all-cached-images  Removes all images from the cache
  delete-queued-image       Deletes an image from the cache queue
  delete-all-queued-images  Deletes all images from the cache queue";

/// Manage the image cache of a server (Glimpse in place of Glance's command of this name)
#[derive(Debug, Parser)]
#[command(name = "glance-cache-manage", version, max_term_width = 100, after_help = COMMANDS)]
pub(super) struct Arguments {
    /// The command, and the id of its image
    #[arg(required = true, num_args = 1..)]
    command: Vec<String>,
    /// Print more
    #[arg(long, short)]
    verbose: bool,
    /// Has no effect: errors are always complete
    #[arg(long, short)]
    debug: bool,
    /// The address of the server
    #[arg(long, short = 'H', value_name = "ADDRESS", default_value = "0.0.0.0")]
    host: String,
    /// The port of the server
    #[arg(long, short, default_value_t = 9292)]
    port: u16,
    /// Do not verify the certificate of Keystone
    #[arg(long, short = 'k')]
    insecure: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    force: bool,
    /// The token
    #[arg(long, short = 'A', env = "OS_AUTH_TOKEN", aliases = ["os_auth_token", "auth_token"], hide_env_values = true)]
    os_auth_token: Option<String>,
    /// The name of the user
    #[arg(long, short = 'I', env = "OS_USERNAME", alias = "os_username")]
    os_username: Option<String>,
    /// The password of the user
    #[arg(long, short = 'K', env = "OS_PASSWORD", alias = "os_password", hide_env_values = true)]
    os_password: Option<String>,
    /// Has no effect: the server is the one that --host names
    #[arg(long, short = 'R', env = "OS_REGION_NAME", alias = "os_region_name")]
    os_region_name: Option<String>,
    /// The project, by id
    #[arg(long, env = "OS_PROJECT_ID", alias = "os_project_id")]
    os_project_id: Option<String>,
    /// The project, by name
    #[arg(long, short = 'T', env = "OS_PROJECT_NAME", alias = "os_project_name")]
    os_project_name: Option<String>,
    /// The domain of the user, by id
    #[arg(long, env = "OS_USER_DOMAIN_ID")]
    os_user_domain_id: Option<String>,
    /// The domain of the project, by id
    #[arg(long, env = "OS_PROJECT_DOMAIN_ID")]
    os_project_domain_id: Option<String>,
    /// The domain of user and project, by id
    #[arg(long, env = "OS_DOMAIN_ID", default_value = "default")]
    os_domain_id: String,
    /// The URL of Keystone
    #[arg(long, short = 'N', env = "OS_AUTH_URL", alias = "os_auth_url")]
    os_auth_url: Option<String>,
    /// Has no effect: without a URL of Keystone, nothing authenticates the caller
    #[arg(long = "os_auth_strategy", short = 'S', value_name = "STRATEGY")]
    os_auth_strategy: Option<String>,
}

/// Why a request failed.
enum Failure {
    NotFound,
    Forbidden,
    Other(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Other(with_causes(&error))
    }
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    super::install_tls()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(arguments.run())
}

impl Arguments {
    async fn run(&self) -> CommandResult {
        let mut out = io::stdout();
        let name = self.command[0].as_str();
        // What Glance names in an error, and asks for confirmation.
        let (action, question, takes_image) = match name {
            "list-cached" => ("show cached images", None, false),
            "list-queued" => ("show queued images", None, false),
            "queue-image" => ("queue the specified image for caching", Some("Queue image IMAGE for caching?"), true),
            "delete-cached-image" => ("delete the specified cached image", Some("Delete cached image IMAGE?"), true),
            "delete-queued-image" => ("delete the specified queued image", Some("Delete queued image IMAGE?"), true),
            "delete-all-cached-images" => ("Delete all cached images", Some("Delete all cached images?"), false),
            "delete-all-queued-images" => ("Delete all queued images", Some("Delete all queued images?"), false),
            "help" => {
                writeln!(out, "{COMMANDS}")?;
                return Ok(ExitCode::SUCCESS);
            }
            name => {
                writeln!(out, "\nError: \"{name}\" is not a valid command.\n\n{COMMANDS}")?;
                return Err(format!("Unknown command: {name}").into());
            }
        };
        let mut image = String::new();
        if takes_image {
            match self.command.as_slice() {
                [_, id] => match Uuid::parse_str(id) {
                    Ok(id) => image = id.to_string(),
                    Err(_) => {
                        writeln!(out, "Image ID '{id}' is not a valid UUID.")?;
                        return Ok(ExitCode::FAILURE);
                    }
                },
                _ => {
                    writeln!(
                        out,
                        "Please specify the ID of the image you wish for command '{name}' from the cache as the first and only \
                         argument."
                    )?;
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        if let Some(question) = question
            && !self.force
            && !confirms(&question.replace("IMAGE", &image))?
        {
            return Ok(ExitCode::SUCCESS);
        }
        match self.act(name, &image).await {
            Ok(text) => {
                write!(out, "{text}")?;
                return Ok(ExitCode::SUCCESS);
            }
            Err(Failure::NotFound) => {
                writeln!(out, "Cache management middleware not enabled on host {}", self.host)?;
            }
            Err(Failure::Forbidden) => writeln!(out, "Not authorized to make this request.")?,
            Err(Failure::Other(error)) => writeln!(out, "Failed to {action}. Got error:\n{error}")?,
        }
        Ok(ExitCode::FAILURE)
    }

    /// Sends the request of a command, and returns what it prints.
    async fn act(&self, name: &str, image: &str) -> Result<String, Failure> {
        let said = |text: String| if self.verbose { text } else { String::new() };
        let number = |answer: Value| answer["num_deleted"].as_u64().unwrap_or_default();
        Ok(match name {
            "list-cached" => {
                let listed = self.request(Method::GET, "cached_images").await?;
                cached_table(listed["cached_images"].as_array().map_or(&[], Vec::as_slice))
            }
            "list-queued" => {
                let listed = self.request(Method::GET, "queued_images").await?;
                let queued = listed["queued_images"].as_array().map_or(&[][..], Vec::as_slice);
                match queued.len() {
                    0 => "No queued images.\n".to_owned(),
                    found => {
                        let rows = queued.iter().map(|id| vec![text(id)]).collect::<Vec<_>>();
                        format!("Found {found} queued images...\n{}", table(&[("ID", false)], &rows))
                    }
                }
            }
            "queue-image" => {
                self.request(Method::PUT, &format!("queued_images/{image}")).await?;
                said(format!("Queued image {image} for caching\n"))
            }
            "delete-cached-image" => {
                self.request(Method::DELETE, &format!("cached_images/{image}")).await?;
                said(format!("Deleted cached image {image}\n"))
            }
            "delete-queued-image" => {
                self.request(Method::DELETE, &format!("queued_images/{image}")).await?;
                said(format!("Deleted queued image {image}\n"))
            }
            "delete-all-cached-images" => {
                let deleted = number(self.request(Method::DELETE, "cached_images").await?);
                said(format!("Deleted {deleted} cached images\n"))
            }
            _ => {
                let deleted = number(self.request(Method::DELETE, "queued_images").await?);
                said(format!("Deleted {deleted} queued images\n"))
            }
        })
    }

    async fn request(&self, method: Method, path: &str) -> Result<Value, Failure> {
        let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(self.insecure).build()?;
        let mut request = client.request(method, format!("http://{}:{}/v2/{path}", self.host, self.port));
        if let Some(token) = self.token(&client).await? {
            request = request.header("X-Auth-Token", token);
        }
        let answer = request.header("Accept", "application/json").send().await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Err(Failure::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Forbidden),
            status if status.is_success() => Ok(answer.json().await?),
            status => Err(Failure::Other(format!("{status}: {}", answer.text().await?))),
        }
    }

    /// The token that the caller has, or that Keystone issues for the password.
    async fn token(&self, client: &reqwest::Client) -> Result<Option<String>, Failure> {
        if let Some(token) = self.os_auth_token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(token.clone()));
        }
        let (Some(url), Some(user)) = (self.os_auth_url.as_deref().filter(|url| !url.is_empty()), &self.os_username)
        else {
            return Ok(None);
        };
        let url = url.trim_end_matches('/');
        let url = if url.contains("/v3") { url.to_owned() } else { format!("{url}/v3") };
        let domain = |id: &Option<String>| json!({ "id": id.as_deref().filter(|id| !id.is_empty()).unwrap_or(&self.os_domain_id) });
        let user = json!({ "name": user, "password": self.os_password, "domain": domain(&self.os_user_domain_id) });
        let project = match (&self.os_project_id, &self.os_project_name) {
            (Some(id), _) if !id.is_empty() => json!({ "id": id }),
            (_, name) => json!({ "name": name, "domain": domain(&self.os_project_domain_id) }),
        };
        let identity = json!({ "methods": ["password"], "password": { "user": user } });
        let body = json!({ "auth": { "identity": identity, "scope": { "project": project } } });
        let answer = client.post(format!("{url}/auth/tokens")).json(&body).send().await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(Failure::Forbidden);
        }
        let answer = answer.error_for_status()?;
        let token = answer.headers().get("x-subject-token").and_then(|token| token.to_str().ok());
        token.map(|token| Some(token.to_owned())).ok_or_else(|| Failure::Other("Keystone issues no token".to_owned()))
    }
}

/// Asks the user.
fn confirms(question: &str) -> io::Result<bool> {
    let mut out = io::stdout();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(["yes", "y"].contains(&answer.trim_end_matches('\n').to_lowercase().as_str()))
}

fn cached_table(images: &[Value]) -> String {
    if images.is_empty() {
        return "No cached images.\n".to_owned();
    }
    let accessed = |time: &Value| if time.as_f64() == Some(0.0) { "N/A".to_owned() } else { iso(time) };
    let row = |image: &Value| {
        let (accessed, modified) = (accessed(&image["last_accessed"]), iso(&image["last_modified"]));
        vec![text(&image["image_id"]), accessed, modified, text(&image["size"]), text(&image["hits"])]
    };
    let rows: Vec<_> = images.iter().map(row).collect();
    let columns =
        [("ID", false), ("Last Accessed (UTC)", false), ("Last Modified (UTC)", false), ("Size", true), ("Hits", true)];
    format!("Found {} cached images...\n{}", images.len(), table(&columns, &rows))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A time in seconds since 1970, as Python's `isoformat` writes it.
fn iso(time: &Value) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "microseconds since 1970 fit")]
    let micros = (time.as_f64().unwrap_or_default() * 1e6).round() as i64;
    let time = chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let fraction = if micros % 1_000_000 == 0 { "" } else { "%.6f" };
    time.format(&format!("%Y-%m-%dT%H:%M:%S{fraction}")).to_string()
}

/// A table in the form of Python's prettytable. A column is centred, or aligned to the right.
fn table(columns: &[(&str, bool)], rows: &[Vec<String>]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].len()).chain([columns[at].0.len()]).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let rule = widths.iter().fold("+".to_owned(), |rule, width| rule + &"-".repeat(width + 2) + "+");
    let line = |cells: Vec<&str>| {
        let mut line = "|".to_owned();
        for ((cell, width), (_, is_right)) in cells.into_iter().zip(&widths).zip(columns) {
            let left = width - cell.len();
            // An odd space is on the right of a cell of odd length, and on the left of others.
            let before = if *is_right { left } else { left / 2 + usize::from(left % 2 == 1 && cell.len() % 2 == 0) };
            // Writing to a string cannot fail.
            let _ = write!(line, " {}{cell}{} |", " ".repeat(before), " ".repeat(left - before));
        }
        line
    };
    let header = line(columns.iter().map(|(name, _)| *name).collect());
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()) + "\n").collect::<String>();
    format!("{rule}\n{header}\n{rule}\n{rows}{rule}\n")
}
