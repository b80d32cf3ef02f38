//! The examples in the documentation of `proc-core` and `proc-cluster`: every public item has one,
//! and each can be pasted into a new crate as it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

tests! {
    every_public_item_has_an_example;
    examples_can_be_pasted;
}

const CRATES: [&str; 2] = ["proc-core", "proc-cluster"];

/// An item may have these words, and the name of an item that has an example, instead of an example
/// of its own.
const LINK: &str = "the example of [`";

/// One line of a documentation comment, with its number in the file.
type DocLine = (usize, String);

/// A documentation comment, and what it documents.
struct Docs {
    file: PathBuf,
    lines: Vec<DocLine>,
    /// The name of the item, such as `Pool::map`; `None` if users do not see the item.
    item: Option<String>,
}

/// A block of Rust in a documentation comment.
struct Example<'a> {
    /// The number of its first line in the file.
    first: usize,
    lines: Vec<&'a DocLine>,
}

impl Docs {
    fn examples(&self) -> Vec<Example<'_>> {
        let mut examples = Vec::new();
        let mut open: Option<(bool, Example<'_>)> = None;
        for line in &self.lines {
            let (number, text) = line;
            match (text.trim_start().strip_prefix("```"), &mut open) {
                (Some(info), None) => {
                    let rust = ["", "rust", "no_run", "compile_fail", "should_panic", "ignore"];
                    let is_rust = rust.contains(&info.split(',').next().unwrap_or_default().trim());
                    open = Some((is_rust, Example { first: number + 1, lines: Vec::new() }));
                }
                (Some(_), Some(_)) => {
                    examples.extend(open.take().filter(|(is_rust, _)| *is_rust).map(|(_, e)| e));
                }
                (None, Some((_, example))) => example.lines.push(line),
                (None, None) => {}
            }
        }
        examples
    }

    /// The names of items whose examples the comment names.
    fn links(&self) -> Vec<String> {
        let text: Vec<&str> = self.lines.iter().map(|(_, text)| text.trim()).collect();
        let text = text.join(" ");
        let after = text.split(LINK).skip(1);
        after.filter_map(|rest| rest.split('`').next().map(str::to_owned)).collect()
    }
}

fn root(name: &str) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in crates");
    crates.join(name).join("src")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The names that `lib.rs` of a crate passes on, and those of its public modules.
fn public_names(name: &str) -> BTreeSet<String> {
    let mut text = std::fs::read_to_string(root(name).join("lib.rs")).expect("a crate has it");
    let modules = text.split("\npub mod ").skip(1).filter_map(|rest| rest.split_once(';'));
    let modules = modules.map(|(module, _)| module).filter(|name| name.chars().all(is_of_a_name));
    let files: Vec<_> = modules.map(|module| root(name).join(module).join("mod.rs")).collect();
    for file in files {
        text += &std::fs::read_to_string(file).expect("a public module of a crate has it");
    }
    let uses = text.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next());
    let last = |tree: &str| tree.rsplit("::").next().unwrap_or_default().to_owned();
    uses.map(last)
        .flat_map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>())
        .map(|name| name.trim_matches(|c| !is_of_a_name(c)).to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The name after the keywords of an item.
fn name_after<'a>(code: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let rest = keywords.iter().find_map(|keyword| code.strip_prefix(keyword))?;
    rest.split(|c| !is_of_a_name(c)).next()
}

/// The type of an `impl` without a trait.
fn type_of_impl(code: &str) -> Option<&str> {
    let rest = code.strip_prefix("impl")?;
    let mut depth = 0;
    let is_outside = |c: char| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        depth == 0 && c != '>'
    };
    let rest = if rest.starts_with('<') { rest.split_once(is_outside)?.1 } else { rest };
    let is_of_trait = rest.split('{').next().is_some_and(|head| head.contains(" for "));
    rest.trim_start().split(|c| !is_of_a_name(c)).next().filter(|_| !is_of_trait)
}

/// The name under which users know the item of a line of code, if they know it. `is_call` tells
/// whether the line is in `executor_calls!`, where names of calls stand alone.
fn item(
    code: &str,
    owner: Option<&str>,
    is_call: bool,
    public: &BTreeSet<String>,
) -> Option<String> {
    let indent = code.len() - code.trim_start().len();
    if indent == 0 {
        let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub fn "];
        return name_after(code, &kinds).filter(|name| public.contains(*name)).map(str::to_owned);
    }
    let owner = owner.filter(|owner| public.contains(*owner))?;
    let code = code.trim_start();
    let method = match indent {
        4 => name_after(code, &["pub fn ", "pub const fn ", "fn "]),
        8 if is_call => Some(code).filter(|code| code.chars().all(is_of_a_name)),
        _ => None,
    };
    method.map(|method| format!("{owner}::{method}"))
}

/// The documentation comments of a file.
fn docs(file: &Path, public: &BTreeSet<String>) -> Vec<Docs> {
    let text = std::fs::read_to_string(file).expect("it is UTF-8");
    let (mut found, mut lines, mut owner) = (Vec::new(), Vec::new(), None);
    let (mut is_trait, mut is_hidden, mut is_call, mut is_attribute) = (false, false, false, false);
    for (index, code) in text.lines().enumerate() {
        let trimmed = code.trim_start();
        if code.starts_with("mod tests {") {
            break;
        } else if let Some(text) =
            trimmed.strip_prefix("///").or_else(|| trimmed.strip_prefix("//!"))
        {
            lines.push((index + 1, text.to_owned()));
            continue;
        } else if is_attribute || trimmed.starts_with("#[") {
            // An attribute between the comment and the item. It may have several lines.
            is_attribute = !trimmed.ends_with(']');
            is_hidden |= trimmed.contains("doc(hidden)");
            continue;
        }
        is_call = trimmed.contains("executor_calls! {") || (is_call && code != "    }");
        if code == "}" {
            owner = None;
        } else if let Some(name) = type_of_impl(code).or(name_after(code, &["pub trait "])) {
            owner = Some(name);
            is_trait = !code.starts_with("impl");
        }
        let is_private = trimmed.starts_with("fn ") && !is_trait;
        let item = item(code, owner, is_call, public).filter(|_| !is_hidden && !is_private);
        if item.is_some() || !lines.is_empty() {
            found.push(Docs { file: file.to_owned(), lines: std::mem::take(&mut lines), item });
        }
        is_hidden = false;
    }
    found
}

/// All documentation comments of both crates.
fn all_docs() -> Vec<Docs> {
    let of_crate = |name: &&str| {
        let public = public_names(name);
        let of_file = |file: &PathBuf| docs(file, &public);
        files(&root(name)).iter().flat_map(of_file).collect::<Vec<Docs>>()
    };
    CRATES.iter().flat_map(of_crate).collect()
}

fn every_public_item_has_an_example() {
    let all = all_docs();
    let items: BTreeMap<&str, &Docs> =
        all.iter().filter_map(|docs| Some((docs.item.as_deref()?, docs))).collect();
    for known in ["Child::join", "Error::kind", "Executor::map", "Pool::map", "Task::get", "wait"] {
        assert!(items.contains_key(known), "{known} is not among {:?}", items.keys());
    }
    let has_example = |name: &str| items.get(name).is_some_and(|docs| !docs.examples().is_empty());
    let mut without = Vec::new();
    for (name, docs) in &items {
        let links = docs.links();
        let owner = name.split("::").next().unwrap_or_default();
        let leads = |link: &String| has_example(link) || has_example(&format!("{owner}::{link}"));
        let is_shown = if links.is_empty() { has_example(name) } else { links.iter().all(leads) };
        if !is_shown {
            let line = docs.lines.first().map_or(0, |(number, _)| *number);
            without.push(format!("{}:{line}: {name}", docs.file.display()));
        }
    }
    assert!(
        without.is_empty(),
        "no example, and no words \"See {LINK}…`]\" that lead to one:\n{}",
        without.join("\n")
    );
}

fn examples_can_be_pasted() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for docs in all_docs() {
        let mut report = |line, what: &str| {
            wrong.push(format!("{}:{line}: {what}", docs.file.display()));
        };
        for example in docs.examples() {
            count += 1;
            for (number, text) in &example.lines {
                let text = text.trim();
                if text == "#" || text.starts_with("# ") {
                    report(*number, "the line is hidden");
                }
            }
            let has = |words: &str| example.lines.iter().any(|(_, text)| text.contains(words));
            if !has("fn main() ") {
                report(example.first, "there is no `main`");
            } else if !has("::init();") {
                report(example.first, "`main` does not call `init`");
            }
        }
    }
    assert!(count > 80, "{count} examples");
    assert!(wrong.is_empty(), "examples that cannot be pasted:\n{}", wrong.join("\n"));
}
