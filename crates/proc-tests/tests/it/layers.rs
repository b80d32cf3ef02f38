//! Tests of two house rules: a file uses only its own folder and lower ones, and no files use each
//! other in a circle. *Arrows* lead from each file to the files that it uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

tests! {
    arrows_of_proc_core_point_down;
    there_is_no_circle_of_files;
}

/// The folders of proc-core, the lowest first. None uses a folder that comes after it.
const LAYERS: [&str; 11] = [
    "panics",
    "sys",
    "memory",
    "wire",
    "call",
    "error",
    "forkserver",
    "process",
    "sync",
    "executor",
    "pool",
];

/// The modules of a crate, by path.
struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
}

/// The modules that each module uses.
type Arrows<'a> = BTreeMap<&'a Vec<String>, BTreeSet<&'a Vec<String>>>;

/// A module that is a file.
struct Module {
    file: PathBuf,
    /// The paths that its `use` declarations import, by the name that they have in the module.
    imports: BTreeMap<String, Vec<String>>,
    /// The paths of all items of its own crate that it uses.
    paths: BTreeSet<Vec<String>>,
}

fn words(path: &str) -> Vec<String> {
    path.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// Returns source text without comments and without code for tests.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut is_test = false;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        if code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test") {
            is_test = true;
        } else if is_test && code.trim_end().ends_with('{') && code.starts_with("mod ") {
            return kept;
        } else if code.trim_start().starts_with("#[cfg(all(test") {
            is_test = true; // a field, or a line of a function
        } else if is_test {
            // One item of one line, such as a module in a file of its own.
            is_test = code.starts_with("#[");
        } else {
            kept.push_str(code);
            kept.push('\n');
        }
    }
    kept
}

/// The paths of the tree of a `use` declaration, each with the name that it imports.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    if let Some(start) = tree.find('{') {
        let before = words(&tree[..start]);
        let inner = tree[start + 1..].trim_end().strip_suffix('}').unwrap_or_default();
        let mut depth = 0;
        let parts = inner.split(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        let with_start =
            |(path, name): (Vec<String>, String)| ([before.clone(), path].concat(), name);
        return parts.flat_map(expand).map(with_start).collect();
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path = words(path);
    let Some(last) = path.last().cloned() else { return Vec::new() };
    let name = if alias.is_empty() { last } else { alias.trim().to_owned() };
    vec![(path, name)]
}

/// The trees of all `use` declarations, each with whether it is a re-export.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find("use ") {
        let line = rest[..start].rsplit('\n').next().unwrap_or_default();
        let is_use = line.trim().is_empty() || line.trim_start().starts_with("pub");
        let after = &rest[start + "use ".len()..];
        let Some((tree, next)) = after.split_once(';').filter(|_| is_use) else {
            rest = after;
            continue;
        };
        found.push((line.contains("pub"), tree.to_owned()));
        rest = next;
    }
    found
}

/// Returns a path from the crate's root, or `None` if the path leads to another crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut from = module.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => from.clear(),
        "self" => {}
        "super" => {
            from.pop();
        }
        _ => return None,
    }
    rest = &rest[1..];
    while rest.first().is_some_and(|word| word == "super") {
        from.pop();
        rest = &rest[1..];
    }
    from.extend(rest.iter().filter(|word| *word != "self").cloned());
    Some(from)
}

impl Crate {
    fn read(name: &str) -> Crate {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in crates");
        let mut krate = Crate { modules: BTreeMap::new() };
        let root = crates.join(name).join("src");
        let file = if root.join("lib.rs").exists() { "lib.rs" } else { "main.rs" };
        krate.read_module(Vec::new(), root.join(file), &root);
        krate
    }

    /// Reads a module and those that it declares in files of their own.
    fn read_module(&mut self, path: Vec<String>, file: PathBuf, directory: &Path) {
        let text = std::fs::read_to_string(&file).expect("it is declared");
        let code = without_tests(&text);
        let mut children: Vec<(String, Option<String>)> = Vec::new();
        let mut named = None;
        for line in code.lines() {
            let line = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let line = line.trim_start_matches("pub(super) ");
            let path = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"));
            named = path.map(str::to_owned).or(named);
            let child = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            if let Some(child) = child {
                let file = named.take();
                // If a module has a file for each system, only the first one is read.
                if children.iter().all(|(known, _)| known != child) {
                    children.push((child.to_owned(), file));
                }
            }
        }
        let is_child = |word: &String| children.iter().any(|(child, _)| child == word);
        let mut module = Module { file, imports: BTreeMap::new(), paths: BTreeSet::new() };
        let statements = uses(&code);
        let rest = statements.iter().fold(code.clone(), |rest, (_, tree)| rest.replace(tree, ""));
        let has_word = |word: &str| {
            let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
            rest.split(|c| !is_of_a_word(c)).any(|found| found == word)
        };
        for (is_public, tree) in &statements {
            for (mut used, name) in expand(tree) {
                if used.first().is_some_and(is_child) {
                    used.insert(0, "self".into());
                }
                let Some(used) = absolute(&path, &used) else { continue };
                let name =
                    if name == "self" { used.last().cloned().unwrap_or_default() } else { name };
                module.imports.insert(name.clone(), used.clone());
                // A module does not use an item that it only re-exports.
                if !is_public || has_word(&name) {
                    module.paths.insert(used);
                }
            }
        }
        // Paths that are written in full outside `use` declarations.
        let is_of_a_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for text in code
            .split(|c| !is_of_a_path(c))
            .filter(|text| text.contains("::") && !text.ends_with("::"))
        {
            let found = words(text);
            let found = absolute(&path, &found);
            module.paths.extend(found.filter(|found| !found.is_empty()));
        }
        self.modules.insert(path.clone(), module);
        for (child, file) in children {
            let directory = match path.last() {
                Some(last) => directory.join(last),
                None => directory.to_owned(),
            };
            let file = directory.join(file.unwrap_or_else(|| format!("{child}.rs")));
            let file = if file.exists() { file } else { directory.join(&child).join("mod.rs") };
            if file.exists() {
                self.read_module([&path[..], &[child]].concat(), file, &directory);
            }
        }
    }

    /// The module that defines the item to which a path leads.
    fn defining_module(&self, path: &[String], depth: usize) -> Option<&Vec<String>> {
        let mut end = path.len();
        while end > 0 && !self.modules.contains_key(&path[..end]) {
            end -= 1;
        }
        let (module, found) = self.modules.get_key_value(&path[..end])?;
        let imported = path.get(end).and_then(|name| found.imports.get(name));
        match imported {
            Some(to) if depth > 0 && to[..] != path[..] => {
                self.defining_module(&[&to[..], &path[end + 1..]].concat(), depth - 1)
            }
            _ => Some(module),
        }
    }

    /// The modules that each module uses.
    fn arrows(&self) -> Arrows<'_> {
        let arrows = self.modules.iter().map(|(path, module)| {
            let to = module.paths.iter().filter_map(|used| self.defining_module(used, 8));
            (path, to.filter(|to| *to != path && !to.is_empty()).collect())
        });
        arrows.collect()
    }

    /// The arrows of each circle of files.
    fn circles(&self) -> Vec<Vec<String>> {
        let arrows = self.arrows();
        let all: Arrows<'_> = arrows.keys().map(|path| (*path, reached(&arrows, path))).collect();
        let mut circles = BTreeSet::new();
        for (path, reached) in &all {
            let circle: Vec<String> = std::iter::once(*path)
                .chain(reached.iter().copied().filter(|other| all[*other].contains(path)))
                .map(|path| path.join("::"))
                .collect::<BTreeSet<String>>()
                .into_iter()
                .collect();
            if circle.len() > 1 {
                let is_in = |path: &Vec<String>| circle.contains(&path.join("::"));
                let inner = arrows.iter().filter(|(from, _)| is_in(from)).flat_map(|(from, to)| {
                    let to = to.iter().filter(|to| is_in(to));
                    to.map(|to| format!("  {} uses {}", from.join("::"), to.join("::")))
                });
                circles.insert(inner.collect::<Vec<String>>());
            }
        }
        circles.into_iter().collect()
    }
}

/// All modules that `from` uses, directly or not.
fn reached<'a>(arrows: &Arrows<'a>, from: &'a Vec<String>) -> BTreeSet<&'a Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(next) = open.pop() {
        open.extend(arrows[next].iter().filter(|to| seen.insert(**to)));
    }
    seen
}

fn arrows_of_proc_core_point_down() {
    let core = Crate::read("proc-core");
    assert!(core.modules.len() > 50, "{} modules", core.modules.len());
    let rank = |path: &Vec<String>| {
        LAYERS.iter().position(|layer| Some(*layer) == path.first().map(String::as_str))
    };
    let mut upwards = Vec::new();
    for (from, arrows) in core.arrows() {
        let Some(own) = rank(from) else {
            assert!(from.is_empty(), "{from:?} is in no layer");
            continue;
        };
        for to in arrows {
            if rank(to).is_none_or(|other| other > own) {
                let file = core.modules[from].file.display();
                upwards.push(format!("{file}: {} uses {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(upwards.is_empty(), "arrows that point upwards:\n{}", upwards.join("\n"));
}

fn there_is_no_circle_of_files() {
    for name in ["proc-core", "proc-cluster", "proc-bench"] {
        let circles = Crate::read(name).circles();
        let told: Vec<String> = circles.iter().map(|circle| circle.join("\n")).collect();
        assert!(told.is_empty(), "circles of {name}:\n{}", told.join("\n"));
    }
}
