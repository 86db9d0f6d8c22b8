//! How a verdict came about, for an operator.

use super::{
    check::{Follow, Judge},
    credentials::{self, Credential},
    left::Left,
    parse::Check,
};

/// The checks that were looked at, in order, each with its verdict.
#[derive(Debug, Default)]
pub(super) struct Followed {
    steps: Vec<Step>,
    depth: usize,
}

#[derive(Debug)]
struct Step {
    depth: usize,
    text: String,
    /// `None` until it is judged, and for ever where rules go round in a circle.
    holds: Option<bool>,
}

impl Follow for Followed {
    fn enter(&mut self, judge: &Judge<'_>, check: &Check) -> usize {
        self.steps.push(Step { depth: self.depth, text: describe(judge, check), holds: None });
        self.depth += 1;
        self.steps.len() - 1
    }

    fn leave(&mut self, place: usize, holds: bool) {
        self.depth -= 1;
        self.steps[place].holds = Some(holds);
    }
}

impl Followed {
    /// A line a check, those that it is made of below it and farther right.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.steps.iter().map(|step| {
            let verdict = match step.holds {
                Some(true) => "yes",
                Some(false) => "no ",
                None => "?  ",
            };
            format!("{:indent$}{verdict} {}", "", step.text, indent = 2 * step.depth)
        })
    }
}

fn describe(judge: &Judge<'_>, check: &Check) -> String {
    match check {
        Check::Always => "@: always".to_owned(),
        Check::Never => "!: never".to_owned(),
        Check::Not(_) => "not:".to_owned(),
        Check::All(_) => "all of:".to_owned(),
        Check::Any(_) => "any of:".to_owned(),
        Check::Rule(name) if judge.rules.get(name).is_some() => check.to_string(),
        Check::Rule(_) => match judge.rules.default_rule() {
            Some(default) => format!("{check}, which is not defined; {default:?} stands in for it"),
            None => format!("{check}, which is not defined"),
        },
        Check::Role(name) => match name.constant() {
            Some(_) => check.to_string(),
            None => format!("{check}, where {}", right(judge, name)),
        },
        Check::Compare(Left::Constant(..), template) => format!("{check}, where {}", right(judge, template)),
        Check::Compare(Left::Credential(name), template) => {
            let credential = match credentials::find(judge.identity, name) {
                Credential::Unknown => format!("there is no credential {name}"),
                Credential::Nothing => format!("{name} is None"),
                Credential::Text(text) => format!("{name} is {text:?}"),
                Credential::Texts(texts) => format!("{name} is one of {texts:?}"),
            };
            format!("{check}, where {credential} and {}", right(judge, template))
        }
    }
}

fn right(judge: &Judge<'_>, template: &super::template::Template) -> String {
    match template.fill(judge.target) {
        Some(text) => format!("the right side is {text:?}"),
        None => "the target has no such attribute".to_owned(),
    }
}
