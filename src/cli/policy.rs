//! `glimpse policy …`

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::Value as Json;

use super::CommandResult;
use crate::{
    config::Config,
    context::{self, Identity},
    policy::{Policy, Target, Value},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show every rule in force, and where it comes from: a file or Glance's defaults. The output can be a policy file
    List,
    /// Tell whether a rule would let somebody do it, and why: exit code 0 when it is allowed, 1 when it is denied
    Check(Question),
}

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The rule, for example get_image
    #[arg(long, required_unless_present = "questions")]
    rule: Option<String>,

    /// The caller's roles, with commas between them; none is added that others imply
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,

    /// The project that the caller's token is for
    #[arg(long)]
    project: Option<String>,

    /// The caller's user id
    #[arg(long)]
    user: Option<String>,

    /// What the caller's token is for
    #[arg(long, value_enum, default_value_t)]
    scope: Scope,

    /// What it is done to, attribute by attribute, as a rule names them: owner=p1, visibility=shared, member_id=p2. Without
    /// =VALUE, the attribute is there and has none. owner and project_id stand for each other, as do member and member_id
    #[arg(long, value_name = "NAME=VALUE")]
    target: Vec<String>,

    /// Many questions instead, one JSON object a line: {"rule": …, "roles": […], "project": …, "target": {…}, …}. Prints
    /// a line for each, without reasons; exit code 0 when all are allowed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rule", "roles", "project", "user", "target"])]
    questions: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    #[default]
    Project,
    Domain,
    System,
    None,
}

impl From<Scope> for context::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Project => Self::Project,
            Scope::Domain => Self::Domain,
            Scope::System => Self::System,
            Scope::None => Self::None,
        }
    }
}

/// A question in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Line {
    rule: String,
    roles: Vec<String>,
    project: Option<String>,
    user: Option<String>,
    scope: Scope,
    user_domain: Option<String>,
    project_domain: Option<String>,
    domain: Option<String>,
    service_roles: Vec<String>,
    target: BTreeMap<String, Json>,
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let (policy, warnings) = Policy::load(config)?;
    for warning in warnings {
        writeln!(io::stderr(), "warning: {warning}")?;
    }
    match command {
        Command::List => list(&policy),
        Command::Check(question) => check(&policy, question),
    }
}

fn list(policy: &Policy) -> CommandResult {
    let mut out = io::stdout().lock();
    for rule in policy.shown() {
        // A text of JSON's is one of YAML's.
        writeln!(out, "{}: {}  # {}", Json::from(rule.name), Json::from(rule.text), rule.origin)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(policy: &Policy, question: Question) -> CommandResult {
    let mut out = io::stdout().lock();
    let allowed = match &question.questions {
        Some(path) => {
            let mut all = true;
            for (number, line) in BufReader::new(open(path)?).lines().enumerate() {
                let line = line?;
                if line.trim().is_empty() {
                    continue;
                }
                let wrong = |error| format!("{}:{}: {error}", path.display(), number + 1);
                let line: Line = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
                let (rule, caller, target) = asked(line).map_err(wrong)?;
                let (allowed, _) = judge(policy, &rule, &caller, &target).map_err(wrong)?;
                writeln!(out, "{}", verdict(allowed))?;
                all &= allowed;
            }
            all
        }
        None => {
            let (rule, caller, target) = asked(question.into_line())?;
            let (allowed, reason) = judge(policy, &rule, &caller, &target)?;
            writeln!(out, "{}", verdict(allowed))?;
            for line in reason {
                writeln!(out, "  {line}")?;
            }
            allowed
        }
    };
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

fn open(path: &Path) -> Result<Box<dyn io::Read>, String> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    match fs::File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

impl Question {
    fn into_line(self) -> Line {
        let target = self.target.iter().map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Json::from(value)),
            None => (text.clone(), Json::Null),
        });
        Line {
            rule: self.rule.unwrap_or_default(),
            roles: self.roles,
            project: self.project,
            user: self.user,
            scope: self.scope,
            target: target.collect(),
            ..Line::default()
        }
    }
}

type Attributes = BTreeMap<String, Value<'static>>;

fn asked(line: Line) -> Result<(String, Identity, Attributes), String> {
    let lower = |roles: Vec<String>| roles.iter().map(|role| role.to_lowercase()).collect::<Vec<_>>();
    let service = Identity { roles: line.service_roles, ..Identity::default() };
    let caller = Identity {
        user_id: line.user,
        project_id: line.project,
        roles: lower(line.roles),
        scope: line.scope.into(),
        user_domain_id: line.user_domain,
        project_domain_id: line.project_domain,
        domain_id: line.domain,
        service: Some(Arc::new(service)).filter(|service| !service.roles.is_empty()),
        ..Identity::default()
    };
    let mut target = Attributes::new();
    for (name, value) in line.target {
        let value = match value {
            Json::Null => Value::Nothing,
            Json::Bool(value) => Value::boolean(value),
            Json::Number(number) => Value::Text(number.to_string().into()),
            Json::String(text) => Value::Text(text.into()),
            Json::Array(_) | Json::Object(_) => return Err(format!("the target's {name} is no text")),
        };
        target.insert(name, value);
    }
    for (one, other) in
        [("owner", "project_id"), ("project_id", "owner"), ("member", "member_id"), ("member_id", "member")]
    {
        if let (Some(value), None) = (target.get(one).cloned(), target.get(other)) {
            target.insert(other.to_owned(), value);
        }
    }
    Ok((line.rule, caller, target))
}

fn judge(policy: &Policy, rule: &str, caller: &Identity, target: &Attributes) -> Result<(bool, Vec<String>), String> {
    let target = Target { attributes: Some(target), ..Target::default() };
    let verdict = policy.explain(caller, rule, &target).ok_or_else(|| {
        let hint = policy.nearest(rule).map(|near| format!("; was {near:?} meant?")).unwrap_or_default();
        format!("there is no policy rule {rule:?}{hint}")
    })?;
    Ok((verdict.allowed, verdict.reason))
}
