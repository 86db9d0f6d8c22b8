//! Explains the result of an evaluation to an operator.

use super::{
    check::{Evaluation, Recorder},
    credentials::{self, Credential},
    left::Left,
    parse::Check,
    template::Template,
};

/// The checks that were evaluated, in order, each with its result.
#[derive(Debug, Default)]
pub(super) struct Trace {
    steps: Vec<Step>,
    depth: usize,
}

#[derive(Debug)]
struct Step {
    depth: usize,
    text: String,
    /// `None` until the evaluation of the check ends. It stays `None` if the rules form a cycle.
    holds: Option<bool>,
}

impl Recorder for Trace {
    fn enter(&mut self, evaluation: &Evaluation<'_>, check: &Check) -> usize {
        self.steps.push(Step { depth: self.depth, text: describe(evaluation, check), holds: None });
        self.depth += 1;
        self.steps.len() - 1
    }

    fn leave(&mut self, index: usize, holds: bool) {
        self.depth -= 1;
        self.steps[index].holds = Some(holds);
    }
}

impl Trace {
    /// One line per check. The parts of a check follow it, indented.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.steps.iter().map(|step| {
            let result = match step.holds {
                Some(true) => "yes",
                Some(false) => "no ",
                None => "?  ",
            };
            format!("{:indent$}{result} {}", "", step.text, indent = 2 * step.depth)
        })
    }
}

fn describe(evaluation: &Evaluation<'_>, check: &Check) -> String {
    match check {
        Check::Always => "@: always".to_owned(),
        Check::Never => "!: never".to_owned(),
        Check::Not(_) => "not:".to_owned(),
        Check::All(_) => "all of:".to_owned(),
        Check::Any(_) => "any of:".to_owned(),
        Check::Rule(name) if evaluation.rules.get(name).is_some() => check.to_string(),
        Check::Rule(_) => match evaluation.rules.default_rule() {
            Some(default) => format!("{check}, which is not defined; {default:?} is evaluated instead"),
            None => format!("{check}, which is not defined"),
        },
        Check::Role(name) => match name.constant() {
            Some(_) => check.to_string(),
            None => format!("{check}, where {}", describe_right_side(evaluation, name)),
        },
        Check::Compare(Left::Constant(..), template) => {
            format!("{check}, where {}", describe_right_side(evaluation, template))
        }
        Check::Compare(Left::Credential(name), template) => {
            let credential = match credentials::find(evaluation.identity, name) {
                Credential::Unknown => format!("there is no credential {name}"),
                Credential::Nothing => format!("{name} is None"),
                Credential::Text(text) => format!("{name} is {text:?}"),
                Credential::Texts(texts) => format!("{name} is one of {texts:?}"),
            };
            format!("{check}, where {credential} and {}", describe_right_side(evaluation, template))
        }
    }
}

fn describe_right_side(evaluation: &Evaluation<'_>, template: &Template) -> String {
    match template.fill(evaluation.target) {
        Some(text) => format!("the right side is {text:?}"),
        None => "the target has no such attribute".to_owned(),
    }
}
