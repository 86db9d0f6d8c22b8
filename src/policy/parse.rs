//! oslo.policy's language, from text to a tree.
//!
//! `@` (always), `!` (never), `kind:match`, `and`, `or`, `not`, parentheses; `not` binds before `and`, `and` before `or`. And
//! the form from before that: a list of lists, whose inner lists are joined by `and`, the outer one by `or`.

use std::fmt;

use super::{
    left::{self, Left},
    template::Template,
};

/// A rule's tree.
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
    /// `role:name`, in lower case where it is constant.
    Role(Template),
    /// `kind:match`
    Compare(Left, Template),
}

/// As oslo.policy shows a rule, and as a file may have it.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("@"),
            Self::Never => f.write_str("!"),
            Self::Not(check) => write!(f, "not {check}"),
            Self::All(checks) => joined(f, checks, " and "),
            Self::Any(checks) => joined(f, checks, " or "),
            Self::Rule(name) => write!(f, "rule:{name}"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::Compare(left, right) => write!(f, "{left}:{right}"),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, checks: &[Check], word: &str) -> fmt::Result {
    for (number, check) in checks.iter().enumerate() {
        write!(f, "{}{check}", if number == 0 { "(" } else { word })?;
    }
    f.write_str(")")
}

/// How deep parentheses may nest: more is no rule that somebody wrote.
const MAX_DEPTH: usize = 64;

/// Reads a rule.
///
/// # Errors
/// What is wrong with it.
pub(super) fn text(text: &str) -> Result<Check, String> {
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

/// Reads the list form: checks that must all hold, of which one list must.
///
/// # Errors
/// What is wrong with it.
pub(super) fn list<T: AsRef<str>>(lists: &[Vec<T>]) -> Result<Check, String> {
    if lists.is_empty() {
        return Ok(Check::Always);
    }
    let mut any = Vec::new();
    for list in lists.iter().filter(|list| !list.is_empty()) {
        let all = list.iter().map(|text| single(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        any.push(one_or(all, Check::All));
    }
    Ok(if any.is_empty() { Check::Never } else { one_or(any, Check::Any) })
}

fn one_or(mut checks: Vec<Check>, many: impl FnOnce(Vec<Check>) -> Check) -> Check {
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

    /// Takes the next token if it is this word, in either case.
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
        Ok(one_or(checks, Check::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Check, String> {
        let mut checks = vec![self.one(depth)?];
        while self.take("and") {
            checks.push(self.one(depth)?);
        }
        Ok(one_or(checks, Check::All))
    }

    fn one(&mut self, depth: usize) -> Result<Check, String> {
        if depth > MAX_DEPTH {
            return Err("it nests too deeply".to_owned());
        }
        if self.take("not") {
            return Ok(Check::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let check = self.any(depth + 1)?;
            return if self.take(")") { Ok(check) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let token = self.peek().ok_or("it ends too early")?;
        self.at += 1;
        single(token)
    }
}

fn single(token: &str) -> Result<Check, String> {
    match token {
        "@" => return Ok(Check::Always),
        "!" => return Ok(Check::Never),
        _ => {}
    }
    let is_quoted = |quote: char| token.len() > 1 && token.starts_with(quote) && token.ends_with(quote);
    let (kind, matches) = token.split_once(':').ok_or(format!("{token:?} is not kind:match"))?;
    match kind {
        _ if is_quoted('\'') || is_quoted('"') => Err(format!("{token} is a text in quotes, and not kind:match")),
        "rule" => Ok(Check::Rule(matches.to_owned())),
        "role" => Ok(Check::Role(Template::parse(matches)?.in_lower_case())),
        "http" | "https" => Err(format!("{token}: Glimpse does not ask other servers what its policy is")),
        _ => Ok(Check::Compare(left::parse(kind)?, Template::parse(matches)?)),
    }
}

/// Splits at white space, Python's; parentheses at a word's start and end are words of their own, but not those of
/// `%(name)s`.
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
    use super::{Check, list, text};

    fn shown(rule: &str) -> String {
        text(rule).unwrap().to_string()
    }

    #[test]
    fn not_binds_before_and_before_or() {
        assert_eq!(shown("role:A or not role:b AND role:c or !"), "(role:a or (not role:b and role:c) or !)");
    }

    #[test]
    fn parentheses_group_and_templates_keep_theirs() {
        let rule = "(role:a and (role:b or project_id:%(owner)s))";
        assert_eq!(shown(rule), rule);
        assert_eq!(shown("( ( role:a ) )"), "role:a");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for rule in ["", "!", "not not @", "'a':%(b)s or \"a\":c or None:%(d)s or (role:%(x)s and 1:100%%)"] {
            assert_eq!(text(&shown(rule)), text(rule), "{rule}");
        }
    }

    #[test]
    fn lists_of_lists() {
        let shown = |lists: &[Vec<&str>]| list(lists).unwrap().to_string();
        assert_eq!(shown(&[]), "@");
        assert_eq!(shown(&[vec![]]), "!");
        assert_eq!(shown(&[vec!["role:a"], vec![], vec!["role:b c", "@"]]), "(role:a or (role:b c and @))");
        assert!(list(&[vec!["role:a or role:b", ""]]).is_err());
    }

    #[test]
    fn what_is_not_a_rule_is_refused() {
        let broken =
            ["role:a or", "(role:a", "role:a)", "and", "a b", "nonsense", "not", " ", "()", "'a':'b'", "\"a:b\""];
        let unsafe_ones = ["http://x/", "https:x", "a:%(b", "a:%(b)d", "a:100%", "012:x", "'a:b", ":x"];
        for rule in broken.into_iter().chain(unsafe_ones) {
            assert!(text(rule).is_err(), "{rule}");
        }
        assert!(text(&"(".repeat(100_000)).is_err());
        assert!(text(&"not ".repeat(100_000)).is_err());
        assert_eq!(text(""), Ok(Check::Always));
    }
}
