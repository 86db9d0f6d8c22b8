//! `glimpse policy …`: prints the policy rules, and evaluates them.

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
    policy::{AttributeValue, Policy, Target, protections::Protections},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print every policy rule in force, and where it is defined
    ///
    /// The output is a valid policy file. A comment behind each rule names the file and line, or Glance's default, that defines it.
    List,
    /// Evaluate a policy rule for a caller and a target, and explain the result
    ///
    /// The exit code is 0 if the action is allowed, 1 if it is denied.
    ///
    /// Example: `glimpse policy check --rule get_image --roles reader --project p1 --target owner=p2 --target visibility=private`
    Check(Question),
}

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The name of the rule, for example get_image
    #[arg(long, required_unless_present = "questions")]
    rule: Option<String>,

    /// The caller's roles, separated by commas. Implied roles are not added: an admin in Keystone is `admin,member,reader`
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,

    /// The id of the project that the caller's token is scoped to
    #[arg(long)]
    project: Option<String>,

    /// The id of the caller's user
    #[arg(long)]
    user: Option<String>,

    /// The scope of the caller's token
    #[arg(long, value_enum, default_value_t)]
    scope: Scope,

    /// An attribute of the target, named as in the rules: owner=p1, visibility=shared or member_id=p2. Without =VALUE, the
    /// attribute is None. owner also sets project_id and member also sets member_id, and vice versa. Can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    target: Vec<String>,

    /// Evaluate many questions from this file (- is standard input), one JSON object per line: {"rule": …, "roles": […],
    /// "project": …, "target": {…}, …}. Prints one line per question, without explanation; the exit code is 0 if all are
    /// allowed
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

/// A question in the file of `--questions`.
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
    let (policy, warnings) = Policy::load(config, Protections::load(config).as_ref().ok())?;
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
    for rule in policy.rules() {
        // A JSON string is also a YAML string.
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
                let (rule, caller, target) = parse_question(line).map_err(wrong)?;
                let (allowed, _) = explain(policy, &rule, &caller, &target).map_err(wrong)?;
                writeln!(out, "{}", verdict(allowed))?;
                all &= allowed;
            }
            all
        }
        None => {
            let (rule, caller, target) = parse_question(question.into_line())?;
            let (allowed, reason) = explain(policy, &rule, &caller, &target)?;
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

type Attributes = BTreeMap<String, AttributeValue<'static>>;

/// The rule, the caller and the target that a question describes.
fn parse_question(line: Line) -> Result<(String, Identity, Attributes), String> {
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
            Json::Null => AttributeValue::Nothing,
            Json::Bool(value) => AttributeValue::from_bool(value),
            Json::Number(number) => AttributeValue::Text(number.to_string().into()),
            Json::String(text) => AttributeValue::Text(text.into()),
            Json::Array(_) | Json::Object(_) => return Err(format!("the target's {name} must be a single value")),
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

/// Evaluates a rule. Returns whether the action is allowed, and the explanation line by line.
fn explain(policy: &Policy, rule: &str, caller: &Identity, target: &Attributes) -> Result<(bool, Vec<String>), String> {
    let target = Target { attributes: Some(target), ..Target::default() };
    let verdict = policy.explain(caller, rule, &target).ok_or_else(|| {
        let hint = policy.nearest(rule).map(|near| format!("; was {near:?} meant?")).unwrap_or_default();
        format!("there is no policy rule {rule:?}{hint}")
    })?;
    Ok((verdict.allowed, verdict.reason))
}
