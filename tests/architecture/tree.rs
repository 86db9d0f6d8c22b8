//! Checks the references between the modules of a source tree.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, fs,
    path::{Path, PathBuf},
};

use super::source::{self, Source};

/// A module, one that it uses, and a reason.
pub(crate) type Pair<'a> = (&'a str, &'a str, &'a str);

/// The rules for a tree.
pub(crate) struct Layout<'a> {
    /// The top-level modules, from the top. A module is allowed to use those in the rows below its own.
    pub(crate) rows: &'a [&'a [&'a str]],
    /// Exceptions: modules that use another one in their own row.
    pub(crate) siblings: &'a [Pair<'a>],
    /// Modules that do not use another one although it is below them.
    pub(crate) forbidden: &'a [Pair<'a>],
    /// The name by which the program refers to the library.
    pub(crate) crate_name: &'a str,
}

/// A file of the tree.
struct File {
    path: PathBuf,
    /// Its module, from the root of the crate. Empty for `main.rs` and `lib.rs`.
    module: Vec<String>,
    /// Its top-level module, or `main` or `lib`.
    top: String,
    source: Source,
}

/// A place in the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    path: PathBuf,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// All `.rs` files under a directory, in order.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(root: &Path, crate_name: &str) -> Vec<File> {
    let src = root.join("src");
    let file = |path: PathBuf| {
        let relative = path.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Vec<_> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        let top = module[0].clone();
        module.pop_if(|last| last == "mod");
        let is_root = module == ["main"] || module == ["lib"];
        if is_root {
            module.clear();
        }
        let source = source::read(&module, Some(crate_name).filter(|_| is_root), &fs::read_to_string(&path).unwrap());
        File { path: path.strip_prefix(root).unwrap().to_owned(), module, top, source }
    };
    files(&src).into_iter().map(file).collect()
}

/// Checks the source tree of the package at `root`. Returns all violations, and the number of references between top-level modules.
pub(crate) fn check(root: &Path, layout: &Layout<'_>) -> (Vec<String>, usize) {
    let files = read(root, layout.crate_name);
    let mut violations = check_rows(&files, layout);
    let (references, unknown) = top_references(&files);
    violations.extend(unknown);
    violations.extend(check_references(&references, layout));
    violations.extend(check_circles(&files, &references));
    (violations, references.len())
}

/// A reference from a top-level module to another one.
struct Edge {
    from: String,
    to: String,
    at: Place,
}

/// Every module is in one row, and every name in the layout is a module.
fn check_rows(files: &[File], layout: &Layout<'_>) -> Vec<String> {
    let modules: BTreeMap<&str, &Path> = files.iter().rev().map(|file| (&*file.top, &*file.path)).collect();
    let mut rows = BTreeMap::new();
    let mut violations = Vec::new();
    for name in layout.rows.iter().copied().flatten() {
        *rows.entry(*name).or_insert(0) += 1;
    }
    for (module, path) in &modules {
        if !rows.contains_key(module) {
            violations.push(format!("{}:1: module {module} is in no row", path.display()));
        }
    }
    for (name, count) in rows {
        if !modules.contains_key(name) {
            violations.push(format!("the rows name {name}, which is not a module of src"));
        }
        if count > 1 {
            violations.push(format!("{name} is in {count} rows"));
        }
    }
    violations
}

/// The references between top-level modules, and violations by those that lead to no module.
fn top_references(files: &[File]) -> (Vec<Edge>, Vec<String>) {
    let modules: BTreeSet<&str> = files.iter().map(|file| &*file.top).collect();
    let mut edges = Vec::new();
    let mut unknown = Vec::new();
    for file in files {
        for reference in &file.source.references {
            let at = Place { path: file.path.clone(), line: reference.line };
            match reference.target.first().filter(|first| *first != "*") {
                None => unknown.push(format!("{at}: {} imports the root of the crate instead of a module", file.top)),
                Some(to) if !modules.contains(&**to) => {
                    unknown.push(format!("{at}: {} uses crate::{to}, which is not a module of src", file.top));
                }
                Some(to) if *to != file.top => edges.push(Edge { from: file.top.clone(), to: to.clone(), at }),
                Some(_) => {}
            }
        }
    }
    (edges, unknown)
}

/// References lead to lower rows, with the exceptions that the layout names. An exception that no reference needs is a violation, too.
fn check_references<'a>(references: &[Edge], layout: &Layout<'a>) -> Vec<String> {
    let row = |module: &str| layout.rows.iter().position(|row| row.contains(&module));
    let mut violations = BTreeSet::new();
    for Edge { from, to, at } in references {
        let find = |pairs: &'a [Pair<'a>]| pairs.iter().find(|(a, b, _)| a == from && b == to);
        let (Some(user), Some(used)) = (row(from), row(to)) else { continue };
        if used < user {
            violations.insert((at, format!("{from} uses {to}, which is in a row above its own")));
        } else if used == user && find(layout.siblings).is_none() {
            violations.insert((at, format!("{from} uses {to}, a sibling in its row, and this pair is not listed")));
        }
        if let Some((.., reason)) = find(layout.forbidden) {
            violations.insert((at, format!("{from} uses {to}, which is forbidden: {reason}")));
        }
    }
    let is_unused = |(a, b, _): &&Pair<'_>| !references.iter().any(|edge| edge.from == *a && edge.to == *b);
    let unused = layout.siblings.iter().filter(is_unused);
    let unused = unused.map(|(from, to, _)| format!("the list of siblings allows {from} to use {to}, and it does not"));
    violations.iter().map(|(at, violation)| format!("{at}: {violation}")).chain(unused).collect()
}

/// Which modules of a folder use each other, with one place for each pair.
type Graph = BTreeMap<String, BTreeMap<String, Place>>;

/// No circles among the top-level modules, and none among the modules inside a folder.
fn check_circles(files: &[File], references: &[Edge]) -> Vec<String> {
    let mut graphs: BTreeMap<Vec<String>, Graph> = BTreeMap::new();
    for Edge { from, to, at } in references {
        let graph = graphs.entry(Vec::new()).or_default();
        graph.entry(from.clone()).or_default().entry(to.clone()).or_insert_with(|| at.clone());
    }
    for (folder, from, to, at) in inner_references(files) {
        graphs.entry(folder).or_default().entry(from).or_default().entry(to).or_insert(at);
    }
    let mut violations = Vec::new();
    for (folder, graph) in &graphs {
        let circles: BTreeSet<_> = graph.keys().filter_map(|module| shortest_circle(graph, module)).collect();
        for circle in circles {
            let folder: String = folder.iter().map(|part| format!("/{part}")).collect();
            let next = circle.iter().cycle().skip(1);
            let steps: Vec<_> =
                circle.iter().zip(next).map(|(from, to)| format!("{from} uses {to} ({})", graph[from][to])).collect();
            let at = &graph[&circle[0]][&circle[1]];
            violations.push(format!("{at}: circle in src{folder}: {}", steps.join(", ")));
        }
    }
    violations
}

/// The references between the modules inside each folder: the folder, the two modules, and the place. References between a module
/// and its child modules are left out, and so is test code: a unit test is allowed to use any module of its folder.
fn inner_references(files: &[File]) -> Vec<(Vec<String>, String, String, Place)> {
    let modules: BTreeSet<&[String]> =
        files.iter().flat_map(|file| (1..=file.module.len()).map(|length| &file.module[..length])).collect();
    let sources: BTreeMap<&[String], &Source> = files.iter().map(|file| (&*file.module, &file.source)).collect();
    let tests: BTreeSet<Vec<String>> = files
        .iter()
        .flat_map(|file| {
            file.source.test_modules.iter().map(|name| [&*file.module, std::slice::from_ref(name)].concat())
        })
        .collect();
    let mut found = Vec::new();
    for file in files {
        if (1..=file.module.len()).any(|length| tests.contains(&file.module[..length])) {
            continue;
        }
        for reference in file.source.references.iter().filter(|reference| !reference.in_tests) {
            let mut target = reference.target.clone();
            // If the folder's own module only re-exports the target, the reference is to the module that defines it.
            for _ in 0..8 {
                let common = file.module.iter().zip(&target).take_while(|(a, b)| a == b).count();
                let (Some(from), Some(to)) = (file.module.get(common), target.get(common)) else { break };
                if common == 0 {
                    break;
                }
                let folder = &target[..common];
                if modules.contains(&target[..=common]) {
                    let at = Place { path: file.path.clone(), line: reference.line };
                    found.push((folder.to_vec(), from.clone(), to.clone(), at));
                    break;
                }
                let Some(import) = sources.get(folder).and_then(|source| source.imports.get(to)) else { break };
                target = [import, &target[common + 1..]].concat();
            }
        }
    }
    found
}

/// The shortest circle through a module, beginning with its first module in alphabetical order.
fn shortest_circle(graph: &Graph, module: &str) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([module]);
    while let Some(current) = queue.pop_front() {
        for next in graph.get(current).into_iter().flat_map(|used| used.keys()) {
            if next == module {
                let mut circle = vec![current.to_owned()];
                while let Some(before) = came_from.get(&**circle.last().unwrap()) {
                    circle.push((*before).to_owned());
                }
                circle.reverse();
                let first = (0..circle.len()).min_by_key(|at| &circle[*at]).unwrap();
                circle.rotate_left(first);
                return Some(circle);
            }
            if !came_from.contains_key(&**next) {
                came_from.insert(next, current);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout<'_> = Layout {
        rows: &[&["main", "lib"], &["top"], &["left", "right"], &["bottom"]],
        siblings: &[],
        forbidden: &[],
        crate_name: "glimpse",
    };

    /// Creates a tree without violations, and adds or replaces these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let base = [
            ("main.rs", "fn main() { glimpse::top::main() }"),
            ("lib.rs", "mod bottom; mod left; mod right; pub mod top;"),
            ("top.rs", "use crate::{bottom, left::a::{b, c}, right};"),
            ("left/mod.rs", "use crate::bottom; mod a;"),
            ("left/a.rs", "use super::bottom; use super::super::bottom::x;"),
            ("right.rs", ""),
            ("bottom.rs", "use std::fmt;"),
        ];
        for (path, text) in base.iter().chain(files) {
            let path = root.path().join("src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn violations(files: &[(&str, &str)], layout: &Layout<'_>) -> Vec<String> {
        check(tree(files).path(), layout).0
    }

    #[test]
    fn a_tree_that_follows_the_layout_has_no_violations() {
        let (violations, references) = check(tree(&[]).path(), &LAYOUT);
        assert_eq!(violations, [""; 0]);
        // main → top; top → bottom, left twice, right; left → bottom twice.
        assert_eq!(references, 7);
    }

    #[test]
    fn an_upward_reference_is_reported_wherever_it_is() {
        for text in [
            "\nuse crate::top;",
            "\nuse super::top;",
            "\nfn f() { crate::top::f() }",
            "\nfn f() { vec![crate::top::f()] }",
            "\n#[cfg(test)] mod tests { use super::super::top; }",
            "#[cfg(test)] mod tests {}\nuse crate::{top::{f, g}};",
        ] {
            let found = violations(&[("bottom.rs", text), ("top.rs", "")], &LAYOUT);
            let rule = "src/bottom.rs:2: bottom uses top, which is in a row above its own";
            assert!(!found.is_empty() && found.iter().all(|violation| violation == rule), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_sibling_is_used_only_if_the_pair_is_listed_with_a_reason() {
        let files = [("right.rs", "use crate::left::x;")];
        let rule = "src/right.rs:1: right uses left, a sibling in its row, and this pair is not listed";
        assert_eq!(violations(&files, &LAYOUT), [rule]);
        let listed = Layout { siblings: &[("right", "left", "an exception")], ..LAYOUT };
        assert_eq!(violations(&files, &listed), [""; 0]);
        // The other direction is another pair, and a pair that no reference needs is a violation.
        let found = violations(&[("left/a.rs", "use crate::right;")], &listed);
        let unused = "the list of siblings allows right to use left, and it does not";
        assert_eq!(
            found,
            ["src/left/a.rs:1: left uses right, a sibling in its row, and this pair is not listed", unused]
        );
    }

    #[test]
    fn a_forbidden_pair_is_reported_with_its_reason() {
        let layout = Layout { forbidden: &[("top", "bottom", "left is between them")], ..LAYOUT };
        assert_eq!(
            violations(&[], &layout),
            ["src/top.rs:1: top uses bottom, which is forbidden: left is between them"]
        );
    }

    #[test]
    fn a_circle_of_top_level_modules_is_reported_with_each_step() {
        let both = [("left", "right", "one"), ("right", "left", "other")];
        let files =
            [("left/a.rs", "\nuse crate::right;"), ("right.rs", "#[cfg(test)] mod tests { use crate::left::a; }")];
        let found = violations(&files, &Layout { siblings: &both, ..LAYOUT });
        let circle =
            "src/left/a.rs:2: circle in src: left uses right (src/left/a.rs:2), right uses left (src/right.rs:1)";
        assert_eq!(found, [circle]);
        let files = [("bottom.rs", "use crate::top;")];
        let found = violations(&files, &LAYOUT);
        assert!(
            found
                .iter()
                .any(|violation| violation.contains("circle in src: bottom uses top (src/bottom.rs:1), top uses"))
        );
    }

    #[test]
    fn a_circle_inside_a_folder_is_reported_also_through_the_folders_own_module() {
        let module = ("left/mod.rs", "mod a; mod b; mod c; pub(crate) use self::b::{B as Other, x};");
        let files = [
            module,
            ("left/a.rs", "use super::Other;"),
            ("left/b/mod.rs", ""),
            ("left/b/d.rs", "\nuse super::super::c;"),
        ];
        assert_eq!(violations(&files, &LAYOUT), [""; 0]);
        let circle = "src/left/a.rs:1: circle in src/left: a uses b (src/left/a.rs:1), b uses c (src/left/b/d.rs:2), c uses a \
                      (src/left/c.rs:1)";
        let closed = ("left/c.rs", "fn f() { crate::left::a::f() }");
        assert_eq!(violations(&[&files[..], &[closed]].concat(), &LAYOUT), [circle]);
        // Test code does not count.
        let closed = ("left/c.rs", "#[cfg(test)] mod tests { use crate::left::a; }");
        assert_eq!(violations(&[&files[..], &[closed]].concat(), &LAYOUT), [""; 0]);
    }

    #[test]
    fn every_module_is_in_one_row_and_every_name_in_the_rows_is_a_module() {
        let rule = "src/attic/roof.rs:1: module attic is in no row";
        assert_eq!(violations(&[("attic/roof.rs", "")], &LAYOUT), [rule]);
        let layout =
            Layout { rows: &[&["main", "lib"], &["top", "left"], &["top", "right", "cellar"], &["bottom"]], ..LAYOUT };
        let found = violations(&[("top.rs", "")], &layout);
        assert_eq!(found, ["the rows name cellar, which is not a module of src", "top is in 2 rows"]);
    }

    #[test]
    fn a_reference_that_names_no_module_is_reported() {
        let root = "src/right.rs:1: right imports the root of the crate instead of a module";
        assert_eq!(violations(&[("right.rs", "use crate as all;")], &LAYOUT), [root]);
        assert_eq!(violations(&[("right.rs", "use super::*;")], &LAYOUT), [root]);
        let unknown = "src/right.rs:1: right uses crate::Item, which is not a module of src";
        assert_eq!(violations(&[("right.rs", "use crate::Item;")], &LAYOUT), [unknown]);
    }

    #[test]
    fn all_violations_are_reported_at_once() {
        let files = [
            ("bottom.rs", "use crate::{left,\nright};"),
            ("attic.rs", "use crate::left;"),
            ("right.rs", "use crate::left;"),
        ];
        let found = violations(&files, &LAYOUT);
        assert_eq!(found.len(), 6, "{found:?}");
    }
}
