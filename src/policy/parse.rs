//! Parses rules in oslo.policy's language into a tree.
//!
//! A rule is made of `@` (always), `!` (never), `kind:match`, `and`, `or`, `not` and parentheses; `not` binds tighter than `and`,
//! and `and` tighter than `or`. There is also an older form: a list of lists of checks. The checks of an inner list are joined by
//! `and`, the inner lists by `or`.

use std::fmt;

use super::{
    left::{self, Left},
    template::Template,
};

/// The tree of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// `@`, or an empty rule.
    Always,
    /// `!`
    Never,
    /// `not …`
    Not(Box<Check>),
    /// `… and …`
    All(Vec<Check>),
    /// `… or …`
    Any(Vec<Check>),
    /// `rule:name`
    Rule(String),
    /// `role:name`. The constant parts of the name are in lower case.
    Role(Template),
    /// `kind:match`
    Compare(Left, Template),
}

/// Formats a rule as oslo.policy does. The result can be parsed again.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("@"),
            Self::Never => f.write_str("!"),
            Self::Not(check) => write!(f, "not {check}"),
            Self::All(checks) => write_joined(f, checks, " and "),
            Self::Any(checks) => write_joined(f, checks, " or "),
            Self::Rule(name) => write!(f, "rule:{name}"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::Compare(left, right) => write!(f, "{left}:{right}"),
        }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, checks: &[Check], word: &str) -> fmt::Result {
    for (number, check) in checks.iter().enumerate() {
        write!(f, "{}{check}", if number == 0 { "(" } else { word })?;
    }
    f.write_str(")")
}

/// The maximum nesting depth of parentheses and `not`. It bounds the recursion of the parser.
const MAX_DEPTH: usize = 64;

/// Parses a rule.
///
/// # Errors
/// A description of the syntax error.
pub(super) fn parse_rule(text: &str) -> Result<Check, String> {
    if text.is_empty() {
        return Ok(Check::Always);
    }
    let tokens = tokens(text);
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let check = parser.any(0)?;
    match parser.peek() {
        None => Ok(check),
        Some(rest) => Err(format!("{rest:?} is unexpected")),
    }
}

/// Parses the list form of a rule. The rule holds if all checks of any inner list hold.
///
/// # Errors
/// A description of the syntax error.
pub(super) fn parse_list_form<T: AsRef<str>>(lists: &[Vec<T>]) -> Result<Check, String> {
    if lists.is_empty() {
        return Ok(Check::Always);
    }
    let mut any = Vec::new();
    for list in lists.iter().filter(|list| !list.is_empty()) {
        let all = list.iter().map(|text| parse_check(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        any.push(single_or(all, Check::All));
    }
    Ok(if any.is_empty() { Check::Never } else { single_or(any, Check::Any) })
}

/// The only check of a list, or the combination of all of them.
fn single_or(mut checks: Vec<Check>, many: impl FnOnce(Vec<Check>) -> Check) -> Check {
    if checks.len() == 1 { checks.swap_remove(0) } else { many(checks) }
}

struct Parser<'t> {
    tokens: &'t [&'t str],
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.tokens.get(self.at).copied()
    }

    /// Consumes the next token if it is this word, ignoring case.
    fn take(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn any(&mut self, depth: usize) -> Result<Check, String> {
        let mut checks = vec![self.all(depth)?];
        while self.take("or") {
            checks.push(self.all(depth)?);
        }
        Ok(single_or(checks, Check::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Check, String> {
        let mut checks = vec![self.one(depth)?];
        while self.take("and") {
            checks.push(self.one(depth)?);
        }
        Ok(single_or(checks, Check::All))
    }

    fn one(&mut self, depth: usize) -> Result<Check, String> {
        if depth > MAX_DEPTH {
            return Err("parentheses and `not` are nested too deeply".to_owned());
        }
        if self.take("not") {
            return Ok(Check::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let check = self.any(depth + 1)?;
            return if self.take(")") { Ok(check) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let token = self.peek().ok_or("the rule ends too early")?;
        self.at += 1;
        parse_check(token)
    }
}

fn parse_check(token: &str) -> Result<Check, String> {
    match token {
        "@" => return Ok(Check::Always),
        "!" => return Ok(Check::Never),
        _ => {}
    }
    let is_quoted = |quote: char| token.len() > 1 && token.starts_with(quote) && token.ends_with(quote);
    let (kind, matches) = token.split_once(':').ok_or(format!("{token:?} is not of the form kind:match"))?;
    match kind {
        _ if is_quoted('\'') || is_quoted('"') => {
            Err(format!("{token} is a quoted string, not of the form kind:match"))
        }
        "rule" => Ok(Check::Rule(matches.to_owned())),
        "role" => Ok(Check::Role(Template::parse(matches)?.in_lower_case())),
        "http" | "https" => Err(format!("{token}: Glimpse does not support http: and https: checks")),
        _ => Ok(Check::Compare(left::parse(kind)?, Template::parse(matches)?)),
    }
}

/// Splits a rule into tokens at Python's white space. Parentheses at the start and end of a word are tokens of their own, except
/// those of `%(name)s`.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let is_space = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
    for mut word in text.split(is_space).filter(|word| !word.is_empty()) {
        while let Some(rest) = word.strip_prefix('(') {
            tokens.push("(");
            word = rest;
        }
        let bare = word.trim_end_matches(')');
        if !bare.is_empty() {
            tokens.push(bare);
        }
        tokens.extend(std::iter::repeat_n(")", word.len() - bare.len()));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::{Check, parse_list_form, parse_rule};

    fn formatted(rule: &str) -> String {
        parse_rule(rule).unwrap().to_string()
    }

    #[test]
    fn not_binds_before_and_before_or() {
        assert_eq!(formatted("role:A or not role:b AND role:c or !"), "(role:a or (not role:b and role:c) or !)");
    }

    #[test]
    fn parentheses_group_checks_and_belong_to_templates() {
        let rule = "(role:a and (role:b or project_id:%(owner)s))";
        assert_eq!(formatted(rule), rule);
        assert_eq!(formatted("( ( role:a ) )"), "role:a");
    }

    #[test]
    fn a_formatted_rule_can_be_parsed_again() {
        for rule in ["", "!", "not not @", "'a':%(b)s or \"a\":c or None:%(d)s or (role:%(x)s and 1:100%%)"] {
            assert_eq!(parse_rule(&formatted(rule)), parse_rule(rule), "{rule}");
        }
    }

    #[test]
    fn lists_of_lists_are_parsed() {
        let formatted = |lists: &[Vec<&str>]| parse_list_form(lists).unwrap().to_string();
        assert_eq!(formatted(&[]), "@");
        assert_eq!(formatted(&[vec![]]), "!");
        assert_eq!(formatted(&[vec!["role:a"], vec![], vec!["role:b c", "@"]]), "(role:a or (role:b c and @))");
        assert!(parse_list_form(&[vec!["role:a or role:b", ""]]).is_err());
    }

    #[test]
    fn invalid_rules_are_rejected() {
        let broken =
            ["role:a or", "(role:a", "role:a)", "and", "a b", "nonsense", "not", " ", "()", "'a':'b'", "\"a:b\""];
        let unsafe_ones = ["http://x/", "https:x", "a:%(b", "a:%(b)d", "a:100%", "012:x", "'a:b", ":x"];
        for rule in broken.into_iter().chain(unsafe_ones) {
            assert!(parse_rule(rule).is_err(), "{rule}");
        }
        assert!(parse_rule(&"(".repeat(100_000)).is_err());
        assert!(parse_rule(&"not ".repeat(100_000)).is_err());
        assert_eq!(parse_rule(""), Ok(Check::Always));
    }
}
