//! oslo.policy's language, from text to a tree.
//!
//! `@` (always), `!` (never), `kind:match`, `and`, `or`, `not`, parentheses. `not` binds before `and`, `and` before `or`.

/// A rule's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// `@`, or an empty rule.
    Always,
    /// `!`, or a rule that cannot be read: whoever cannot be judged is refused.
    Never,
    /// `not …`
    Not(Box<Check>),
    /// `… and …`
    All(Vec<Check>),
    /// `… or …`
    Any(Vec<Check>),
    /// `rule:name`
    Rule(String),
    /// `role:name`, in lower case.
    Role(String),
    /// `kind:match`: a constant in quotes or the name of a credential, against a text in which `%(name)s` stands for an
    /// attribute of the target.
    Generic {
        /// The left side.
        kind: String,
        /// The right side.
        matches: String,
    },
}

/// How deep parentheses may nest: more is no rule that somebody wrote.
const MAX_DEPTH: usize = 64;

/// Reads a rule; one that cannot be read is [`Check::Never`].
pub(super) fn rule(text: &str) -> Check {
    parse(text).unwrap_or_else(|error| {
        tracing::error!(rule = text, %error, "policy rule cannot be read and lets nobody");
        Check::Never
    })
}

/// Reads a rule.
pub(super) fn parse(text: &str) -> Result<Check, String> {
    let tokens = tokens(text);
    if tokens.is_empty() {
        return Ok(Check::Always);
    }
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let check = parser.any(0)?;
    match parser.peek() {
        None => Ok(check),
        Some(rest) => Err(format!("{rest:?} is unexpected")),
    }
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
        Ok(if checks.len() == 1 { checks.swap_remove(0) } else { Check::Any(checks) })
    }

    fn all(&mut self, depth: usize) -> Result<Check, String> {
        let mut checks = vec![self.one(depth)?];
        while self.take("and") {
            checks.push(self.one(depth)?);
        }
        Ok(if checks.len() == 1 { checks.swap_remove(0) } else { Check::All(checks) })
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
    let (kind, matches) = token.split_once(':').ok_or(format!("{token:?} is not kind:match"))?;
    match kind {
        "rule" => Ok(Check::Rule(matches.to_owned())),
        "role" => Ok(Check::Role(matches.to_lowercase())),
        "http" | "https" => Err("checks over HTTP are not supported".to_owned()),
        _ => Ok(Check::Generic { kind: kind.to_owned(), matches: matches.to_owned() }),
    }
}

/// Splits at white space; parentheses at a word's start and end are words of their own, but not those of `%(name)s`.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for mut word in text.split_whitespace() {
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
    use super::{Check, parse};

    fn role(name: &str) -> Check {
        Check::Role(name.to_owned())
    }

    #[test]
    fn not_binds_before_and_before_or() {
        let expected =
            Check::Any(vec![role("a"), Check::All(vec![Check::Not(Box::new(role("b"))), role("c")]), Check::Never]);
        assert_eq!(parse("role:A or not role:b AND role:c or !"), Ok(expected));
    }

    #[test]
    fn parentheses_group_and_templates_keep_theirs() {
        let owner = Check::Generic { kind: "project_id".into(), matches: "%(owner)s".into() };
        let expected = Check::All(vec![role("a"), Check::Any(vec![role("b"), owner])]);
        assert_eq!(parse("(role:a and (role:b or project_id:%(owner)s))"), Ok(expected));
    }

    #[test]
    fn what_is_not_a_rule_is_refused() {
        for text in ["role:a or", "(role:a", "role:a)", "and", "a b", "nonsense", "http://x/", "not"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
        assert!(parse(&"not ".repeat(100_000)).is_err());
        assert_eq!(parse(""), Ok(Check::Always));
    }
}
