//! Reads Rust source: its tokens, the paths in it that lead into the crate, and which of it is test code.
//!
//! This is not a parser of Rust. It drops comments and most literals, and searches the remaining tokens for paths. That way, paths in
//! macros, attributes and expressions count like those in `use`.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Word(String),
    /// The contents of a string literal.
    Text(String),
    /// `::`
    PathSeparator,
    Symbol(char),
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
    /// Whether it belongs to an item under `#[cfg(test)]`.
    pub(crate) in_tests: bool,
}

impl Token {
    pub(crate) fn word(&self) -> Option<&str> {
        if let Kind::Word(word) = &self.kind { Some(word) } else { None }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Kind::Text(text) = &self.kind { Some(text) } else { None }
    }

    pub(crate) fn is(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Splits source text into tokens. Comments, numbers, lifetimes and characters are dropped.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut line, mut at) = (1, 0);
    while at < text.len() {
        let (kind, length) = token(&text[at..]);
        if let Some(kind) = kind {
            tokens.push(Token { kind, line, in_tests: false });
        }
        line += text[at..at + length].bytes().filter(|byte| *byte == b'\n').count();
        at += length;
    }
    mark_tests(&mut tokens);
    tokens
}

/// The token at the start of this text, unless it is dropped, and its length in bytes.
fn token(rest: &str) -> (Option<Kind>, usize) {
    let length = |of: fn(char) -> bool, text: &str| text.find(|c| !of(c)).unwrap_or(text.len());
    let first = rest.chars().next().unwrap_or_default();
    match first {
        c if c.is_whitespace() => return (None, length(char::is_whitespace, rest)),
        '/' if rest.starts_with("//") => return (None, length(|c| c != '\n', rest)),
        '/' if rest.starts_with("/*") => return (None, block_comment(rest)),
        '\'' => return (None, character_or_lifetime(rest)),
        ':' if rest.starts_with("::") => return (Some(Kind::PathSeparator), 2),
        '"' | 'b' | 'c' | 'r' => {
            if let Some((contents, length)) = string(rest) {
                return (Some(Kind::Text(contents.to_owned())), length);
            }
        }
        _ => {}
    }
    // `r#type` is the word `type`.
    let raw = if rest.starts_with("r#") { 2 } else { 0 };
    let end = raw + length(is_word, &rest[raw..]);
    match first {
        c if c.is_ascii_digit() => (None, end),
        c if is_word(c) => (Some(Kind::Word(rest[raw..end].to_owned())), end),
        c => (Some(Kind::Symbol(c)), c.len_utf8()),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let ahead = &rest.as_bytes()[at..];
        if ahead.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if ahead.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// A string literal of any kind: its contents as they are written, and its length.
fn string(rest: &str) -> Option<(&str, usize)> {
    let opening = rest.find(|c| !matches!(c, 'b' | 'c' | 'r' | '#')).filter(|at| rest[*at..].starts_with('"'))?;
    let prefix = rest[..opening].trim_end_matches('#');
    let hashes = &rest[prefix.len()..opening];
    let is_raw = prefix.ends_with('r');
    if !["", "b", "c", "r", "br", "cr"].contains(&prefix) || !(is_raw || hashes.is_empty()) {
        return None;
    }
    let contents = &rest[opening + 1..];
    let end = if is_raw {
        contents.find(&format!("\"{hashes}"))?
    } else {
        let mut is_escaped = false;
        contents.find(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        })?
    };
    Some((&contents[..end], opening + 1 + end + 1 + hashes.len()))
}

fn character_or_lifetime(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        // An escape: its end is the next quote that is not escaped itself.
        (Some((_, '\\')), Some((at, c))) => {
            let from = at + c.len_utf8();
            rest[from..].find('\'').map_or(rest.len(), |quote| from + quote + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        (Some((at, c)), _) if is_word(c) => rest[at..].find(|c| !is_word(c)).map_or(rest.len(), |length| at + length),
        _ => 1,
    }
}

/// Marks each item under `#[cfg(test)]`, or under a condition with `test` and without `not`: all tokens up to its `;`, or to the end of its block.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        let begins = tokens[at].is('#') && tokens.get(at + 2).and_then(Token::word) == Some("cfg");
        let contains = |word| attribute(&tokens[at..]).iter().any(|token| token.word() == Some(word));
        if begins && contains("test") && !contains("not") {
            let length = item(&tokens[at..]);
            tokens[at..at + length].iter_mut().for_each(|token| token.in_tests = true);
            at += length;
        } else {
            at += 1;
        }
    }
}

/// The attribute at the start of these tokens.
fn attribute(tokens: &[Token]) -> &[Token] {
    let mut depth = 0;
    let end = tokens.iter().position(|token| {
        depth += i32::from(token.is('[')) - i32::from(token.is(']'));
        depth == 0 && token.is(']')
    });
    &tokens[..end.map_or(tokens.len(), |end| end + 1)]
}

/// The number of tokens of an item with its attributes.
fn item(tokens: &[Token]) -> usize {
    let mut start = 0;
    while tokens.get(start).is_some_and(|token| token.is('#')) {
        start += attribute(&tokens[start..]).len();
    }
    let (mut depth, mut was_block) = (0, false);
    for (at, token) in tokens.iter().enumerate().skip(start) {
        let opens = ['(', '[', '{'].iter().any(|symbol| token.is(*symbol));
        let closes = [')', ']', '}'].iter().any(|symbol| token.is(*symbol));
        was_block |= token.is('{') && depth == 0;
        depth += i32::from(opens) - i32::from(closes);
        if depth < 0 {
            return at;
        }
        if depth == 0 && (token.is(';') || was_block && token.is('}')) {
            return at + 1;
        }
    }
    tokens.len()
}

/// A path that leads into the crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The path from the root of the crate.
    pub(crate) target: Vec<String>,
    pub(crate) line: usize,
    pub(crate) in_tests: bool,
}

/// The references and module declarations of a file.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) references: Vec<Reference>,
    /// The names that the file's own module imports, with their paths.
    pub(crate) imports: BTreeMap<String, Vec<String>>,
    /// The child modules that are declared under `#[cfg(test)]`.
    pub(crate) test_modules: Vec<String>,
}

/// Finds the paths in a file of this module that lead into the crate. `crate_name` is the name by which a program refers
/// to its library.
pub(crate) fn read(module: &[String], crate_name: Option<&str>, text: &str) -> Source {
    let tokens = tokens(text);
    let mut source = Source::default();
    // The inline modules around the current token, with the depth of their braces.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while let Some(Token { kind, line, in_tests }) = tokens.get(at) {
        let next = tokens.get(at + 1);
        let current = || module.iter().cloned().chain(inline.iter().map(|(name, _)| (*name).to_owned())).collect();
        let mut refer = |target| source.references.push(Reference { target, line: *line, in_tests: *in_tests });
        at += 1;
        match kind {
            Kind::Symbol('{') => depth += 1,
            Kind::Symbol('}') => {
                depth -= 1;
                inline.pop_if(|(_, outer)| *outer == depth);
            }
            Kind::Text(text) => {
                let segments: Vec<_> = text.split("::").map(str::to_owned).collect();
                let is_path = segments.len() > 1 && segments.iter().all(|segment| segment.chars().all(is_word));
                absolute(current(), crate_name, &segments).filter(|_| is_path).into_iter().for_each(refer);
            }
            Kind::Word(word) if word == "mod" => {
                let name = next.and_then(Token::word);
                match (name, tokens.get(at + 1)) {
                    (Some(name), Some(after)) if after.is('{') => inline.push((name, depth)),
                    (Some(name), Some(after)) if after.is(';') && *in_tests => {
                        source.test_modules.push(name.to_owned())
                    }
                    _ => {}
                }
            }
            // Not `use<…>`, which is about lifetimes.
            Kind::Word(word) if word == "use" && !next.is_some_and(|next| next.is('<')) => {
                let mut leaves = Vec::new();
                at = use_tree(&tokens, at, &[], &mut leaves);
                for Leaf { path, name, line } in leaves {
                    let target = absolute(current(), crate_name, &path);
                    if inline.is_empty() && depth == 0 {
                        // A path without `crate`, `self` or `super` may begin with a child module.
                        let relative = || module.iter().chain(&path).cloned().collect();
                        source.imports.insert(name, target.clone().unwrap_or_else(relative));
                    }
                    let in_tests = *in_tests;
                    source.references.extend(target.map(|target| Reference { target, line, in_tests }));
                }
            }
            Kind::Word(word) => {
                let mut segments = vec![word.clone()];
                while let (Some(Kind::PathSeparator), Some(word)) =
                    (tokens.get(at).map(|token| &token.kind), tokens.get(at + 1).and_then(Token::word))
                {
                    segments.push(word.to_owned());
                    at += 2;
                }
                // A single word is a visibility such as `pub(crate)`, or no path at all.
                if segments.len() > 1 {
                    absolute(current(), crate_name, &segments).into_iter().for_each(&mut refer);
                }
            }
            Kind::PathSeparator | Kind::Symbol(_) => {}
        }
    }
    source
}

struct Leaf {
    path: Vec<String>,
    /// The name under which it is imported.
    name: String,
    line: usize,
}

/// Collects the paths of the `use` tree at `at`. Returns the position after it.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut path = prefix.to_vec();
    let mut name = None;
    let mut is_group = false;
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(Token { kind, .. }) = tokens.get(at) {
        match kind {
            Kind::Word(word) if word == "as" => {
                name = tokens.get(at + 1).and_then(Token::word).map(str::to_owned);
                at += 1;
            }
            // `a::{self}` is `a`.
            Kind::Word(word) if word == "self" && !path.is_empty() => {}
            Kind::Word(word) => path.push(word.clone()),
            Kind::Symbol('*') => path.push("*".to_owned()),
            Kind::Symbol('{') => {
                is_group = true;
                at += 1;
                while tokens.get(at).is_some_and(|token| !token.is('}') && !token.is(';')) {
                    at = use_tree(tokens, at, &path, leaves);
                    if tokens.get(at).is_some_and(|token| token.is(',')) {
                        at += 1;
                    }
                }
            }
            Kind::Symbol(',' | ';' | '}') => break,
            // `$` of `$crate`
            Kind::PathSeparator | Kind::Symbol(_) | Kind::Text(_) => {}
        }
        at += 1;
    }
    if !is_group {
        let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
        leaves.push(Leaf { path, name, line });
    }
    at
}

/// Resolves a path to one from the root of the crate. Returns `None` if it begins with another name, such as that of a dependency.
fn absolute(module: Vec<String>, crate_name: Option<&str>, segments: &[String]) -> Option<Vec<String>> {
    let mut from = match segments.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        Some("self" | "super") => module,
        Some(first) if Some(first) == crate_name => Vec::new(),
        _ => return None,
    };
    let mut rest = segments;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => drop(from.pop()),
            first if rest.len() == segments.len() && Some(first) == crate_name => {}
            _ => break,
        }
        rest = after;
    }
    from.extend(rest.iter().cloned());
    Some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths found in a file `src/a/b.rs`, with their lines.
    fn found(text: &str) -> Vec<(String, usize)> {
        let source = read(&["a".to_owned(), "b".to_owned()], None, text);
        source.references.into_iter().map(|found| (found.target.join("::"), found.line)).collect()
    }

    fn paths(text: &str) -> Vec<String> {
        found(text).into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn groups_of_imports_are_expanded() {
        let text = "use std::fmt;\nuse crate::{\n    config::{self, Value, ini::{Line, parse as read}},\n    db,\n    error::*,\n};";
        let expected = [
            ("config", 3),
            ("config::Value", 3),
            ("config::ini::Line", 3),
            ("config::ini::parse", 3),
            ("db", 4),
            ("error::*", 5),
        ];
        assert_eq!(found(text), expected.map(|(path, line)| (path.to_owned(), line)));
        assert_eq!(paths("pub(crate) use crate::db::images as records;"), ["db::images"]);
        assert_eq!(paths("use crate as everything; use crate::{self as all};"), ["", ""]);
    }

    #[test]
    fn paths_in_expressions_types_macros_and_attributes_are_found() {
        assert_eq!(
            paths("fn f(x: &crate::db::Tx) -> Vec<crate::model::Image> { crate::app::now() }"),
            ["db::Tx", "model::Image", "app::now"]
        );
        assert_eq!(
            paths("let x = vec![crate::config::A; 2]; assert_eq!(x, crate::error::B);"),
            ["config::A", "error::B"]
        );
        assert_eq!(paths("macro_rules! m { ($x:ident) => { $crate::log::write(stringify!($x)) } }"), ["log::write"]);
        assert_eq!(paths("#[serde(with = \"crate::model::time\")] x: u8"), ["model::time"]);
        assert_eq!(paths("impl crate::store::Driver for X<crate::db::Y> {}"), ["store::Driver", "db::Y"]);
    }

    #[test]
    fn relative_paths_are_followed_out_of_their_module() {
        assert_eq!(paths("use super::c; use super::super::d::E; use self::f::G;"), ["a::c", "d::E", "a::b::f::G"]);
        let nested =
            "mod tests { use super::*; fn f() { super::super::c(); super::super::super::d::e() } } use super::z;";
        assert_eq!(paths(nested), ["a::b::*", "a::c", "d::e", "a::z"]);
    }

    #[test]
    fn visibilities_and_capture_bounds_are_not_references() {
        assert_eq!(paths("pub(crate) struct A; pub(super) fn f() -> impl Fn() + use<'_, T> { crate::x::y }"), ["x::y"]);
    }

    #[test]
    fn comments_and_literals_are_skipped() {
        let text = "// crate::a::a\n/* crate::b::b /* crate::c::c */ crate::d::d */\n/// [`crate::e::e`]\nlet x = \"say \\\" \
                    crate::f::f\";\nlet y = r#\"\" crate::g::g \"#; let z: &'static str = b\"crate\";\nlet q = ['\"', '\\'', 'x', \
                    '\\u{7f}']; crate::h::h";
        assert_eq!(found(text), [("h::h".to_owned(), 6)]);
    }

    #[test]
    fn a_program_calls_its_library_by_the_crates_name() {
        let source = read(&[], Some("glimpse"), "fn main() { glimpse::cli::main(); other::glimpse::db::x() }");
        assert_eq!(source.references.len(), 1);
        assert_eq!(source.references[0].target, ["cli", "main"]);
    }

    #[test]
    fn test_code_is_the_item_that_follows_the_attribute() {
        let text = "#[cfg(test)]\nuse crate::a::{b, c};\nuse crate::d;\n#[cfg(any(test, x))]\n#[expect(y)]\nmod tests { fn f() \
                    { crate::e::e() } }\ncrate::f::f();\n#[cfg(test)] pub(super) mod fixture;\n#[cfg(not(test))] fn g() { crate::g::g() }";
        let source = read(&[], None, text);
        let tests = source.references.iter().filter(|found| found.in_tests).map(|found| found.target.join("::"));
        assert_eq!(tests.collect::<Vec<_>>(), ["a::b", "a::c", "e::e"]);
        assert_eq!(source.references.len(), 6);
        assert_eq!(source.test_modules, ["fixture"]);
    }

    #[test]
    fn imports_of_the_module_itself_are_known_by_name() {
        let text = "pub(crate) use self::feed::Limits; use tap::{Tap, Look as See}; fn f() { use crate::x::Y; }";
        let imports = read(&["stream".to_owned()], None, text).imports;
        let paths = |name: &str| imports.get(name).map(|path| path.join("::"));
        assert_eq!(paths("Limits").as_deref(), Some("stream::feed::Limits"));
        assert_eq!(paths("See").as_deref(), Some("stream::tap::Look"));
        assert_eq!(paths("Y"), None);
    }
}
