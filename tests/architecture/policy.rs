//! Checks how the source tree names policy rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{
    source::{Token, tokens},
    tree::files,
};

/// The file with the rules and the constants.
const DEFAULTS: &str = "src/policy/defaults.rs";
/// The folders that enforce rules. A string there that looks like a rule must be one.
const ENFORCING: [&str; 5] = ["src/access", "src/data", "src/http", "src/images", "src/metadefs"];
/// Endings that make a string look like a rule.
const ENDINGS: [&str; 4] = ["_image", "_images", "_member", "_members"];
/// The rule whose name is also an ordinary word. Only the policy itself uses it.
const ORDINARY: &str = "default";

struct Constant {
    rule: String,
    line: usize,
}

/// Checks that code outside `policy` names rules by constants, and that each constant is in a rule and is used. Returns all violations,
/// and the number of constants.
pub(crate) fn check(root: &Path) -> (Vec<String>, usize) {
    let defaults = tokens(&fs::read_to_string(root.join(DEFAULTS)).unwrap());
    let defaults: Vec<_> = defaults.into_iter().filter(|token| !token.in_tests).collect();
    let rules: Vec<&str> = defaults.iter().filter_map(Token::text).filter(|text| is_name(text)).collect();
    let constants = constants(&defaults);
    let mut used = BTreeSet::new();
    let mut violations = Vec::new();
    for path in files(&root.join("src")) {
        let place = path.strip_prefix(root).unwrap();
        if place == Path::new(DEFAULTS) {
            continue;
        }
        let tokens = tokens(&fs::read_to_string(&path).unwrap());
        used.extend(
            without_imports(&tokens).filter(|token| !token.in_tests).filter_map(Token::word).map(str::to_owned),
        );
        if place.starts_with("src/policy") {
            continue;
        }
        let is_enforcing = ENFORCING.iter().any(|folder| place.starts_with(folder));
        for token in &tokens {
            let Some(text) = token.text().filter(|text| is_name(text) && *text != ORDINARY) else { continue };
            let at = format!("{}:{}", place.display(), token.line);
            let constant = constants.iter().find(|(_, constant)| constant.rule == text);
            if let Some((name, _)) = constant {
                violations.push(format!("{at}: the policy rule \"{text}\" has a constant, {name}"));
            } else if rules.contains(&text) {
                violations.push(format!("{at}: the policy rule \"{text}\" has no constant in {DEFAULTS}"));
            } else if is_enforcing && ENDINGS.iter().any(|ending| text.ends_with(ending)) {
                violations.push(format!("{at}: \"{text}\" looks like a policy rule, but no such rule exists"));
            }
        }
    }
    for (name, Constant { rule, line }) in &constants {
        if !used.contains(name) {
            violations.push(format!("{DEFAULTS}:{line}: {name} is never used"));
        }
        // Its definition is the first occurrence, its rule the second one.
        if defaults.iter().filter(|token| token.word() == Some(name)).count() < 2 {
            violations.push(format!("{DEFAULTS}:{line}: {name} is not used by any rule"));
        }
        if rules.iter().filter(|other| *other == rule).count() > 1 {
            violations.push(format!("{DEFAULTS}:{line}: \"{rule}\" is written out besides {name}"));
        }
    }
    (violations, constants.len())
}

/// Whether a string has the form of a rule's name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The constants with one rule's name each: `pub(…) const NAME: … = … "name" …;`.
fn constants(defaults: &[Token]) -> BTreeMap<String, Constant> {
    let mut constants = BTreeMap::new();
    for (at, token) in defaults.iter().enumerate() {
        let is_visible = at > 0 && (defaults[at - 1].is(')') || defaults[at - 1].word() == Some("pub"));
        let Some(name) = defaults.get(at + 1).and_then(Token::word) else { continue };
        if token.word() == Some("const") && is_visible {
            let definition = defaults[at..].iter().take_while(|token| !token.is(';'));
            let texts: Vec<_> = definition.filter_map(Token::text).collect();
            if let [rule] = texts[..]
                && is_name(rule)
            {
                constants.insert(name.to_owned(), Constant { rule: rule.to_owned(), line: token.line });
            }
        }
    }
    constants
}

/// The tokens outside of `use`. Importing a constant, or re-exporting it, does not count as a use.
fn without_imports(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    let mut is_import = false;
    tokens.iter().filter(move |token| {
        is_import = if is_import { !token.is(';') } else { token.word() == Some("use") };
        !is_import
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "pub(crate) const GET_IMAGE: &str = \"get_image\";\npub(crate) const ADD_MEMBER: Rule = \
                         Rule(\"add_member\");\nconst ADMIN: &str = \"rule:context_is_admin\";\npub(super) const RULES: \
                         &[Default] = &[anywhere(\"default\", \"\"), project(GET_IMAGE, ADMIN), project(ADD_MEMBER, ADMIN), \
                         project(\"add_task\", ADMIN)];";
    const USES: &str =
        "use crate::policy::defaults::{ADD_MEMBER, GET_IMAGE}; fn f() { enforce(GET_IMAGE); enforce(ADD_MEMBER) }";

    fn violations(defaults: &str, service: &str, others: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("policy/defaults.rs", defaults), ("access/mod.rs", service)].iter().chain(others) {
            let path = root.path().join("src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check(root.path()).0
    }

    #[test]
    fn rules_that_are_named_by_constants_have_no_violations() {
        assert_eq!(violations(RULES, USES, &[("config.rs", "\"default\" \"other_image\" \"GET_IMAGE\"")]), [""; 0]);
    }

    #[test]
    fn a_rule_that_is_written_out_is_reported() {
        let others = [
            ("images/mod.rs", "\nenforce(\"get_image\");\nenforce(\"add_task\"); enforce(\"fetch_image\");"),
            ("limits.rs", "#[cfg(test)] mod tests { enforce(\"add_member\") }"),
            ("policy/mod.rs", "\"get_image\""),
        ];
        assert_eq!(
            violations(RULES, USES, &others),
            [
                "src/images/mod.rs:2: the policy rule \"get_image\" has a constant, GET_IMAGE",
                "src/images/mod.rs:3: the policy rule \"add_task\" has no constant in src/policy/defaults.rs",
                "src/images/mod.rs:3: \"fetch_image\" looks like a policy rule, but no such rule exists",
                "src/limits.rs:1: the policy rule \"add_member\" has a constant, ADD_MEMBER",
            ]
        );
    }

    #[test]
    fn a_constant_that_is_only_reexported_or_only_used_in_tests_is_reported() {
        let service = "pub(crate) use crate::policy::defaults::ADD_MEMBER; fn f() { enforce(GET_IMAGE) } #[cfg(test)] fn g() { \
                       enforce(ADD_MEMBER) }";
        assert_eq!(violations(RULES, service, &[]), ["src/policy/defaults.rs:2: ADD_MEMBER is never used"]);
    }

    #[test]
    fn a_constant_that_no_rule_uses_is_reported() {
        let defaults = RULES.replace("project(GET_IMAGE", "project(\"get_image\"");
        assert_eq!(
            violations(&defaults, USES, &[]),
            [
                "src/policy/defaults.rs:1: GET_IMAGE is not used by any rule",
                "src/policy/defaults.rs:1: \"get_image\" is written out besides GET_IMAGE",
            ]
        );
    }
}
