//! `docs/names.md` has a row for each public name of Python's modules, and the Rust names in its
//! rows exist.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use support::{run, workspace};

const PAGE: &str = "docs/names.md";

/// What the second column may say.
const ANSWERS: [&str; 4] = ["here", "instead", "not yet", "no"];

/// Beginnings of code in the third column that is not from these crates.
const FOREIGN_CODE: [&str; 5] = ["std::", "ipc::", "sender.", "receiver.", "#[derive("];

/// Names of methods and types in the third column that are those of std, of serde, of a trait, or
/// of Python.
const FOREIGN_NAMES: &str = "concat default drop err is_none is_ok iter len map next \
    Duration HashMap HashSet None Mutex Vec \
    BaseProcess ForkContext ForkServerContext SpawnContext";

/// A row of a table.
struct Row {
    line: usize,
    /// The code in the heading above: modules and classes.
    places: Vec<String>,
    /// The code in the first column.
    names: Vec<String>,
    answer: String,
    /// The code in the third column.
    code: Vec<String>,
    has_reason: bool,
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(workspace().join(PAGE)).expect("the page");
    let (mut places, mut rows) = (Vec::new(), Vec::new());
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("## ") || line.starts_with("### ") {
            places = code(line);
        }
        let Some(row) = line.strip_prefix("| `").or(line.strip_prefix("| \"")) else { continue };
        // A bar in code is written `\|`.
        let row = format!("`{row}").replace("\\|", "\0");
        let [name, answer, rust, ""] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{PAGE}:{}: not three columns", number + 1)
        };
        rows.push(Row {
            line: number + 1,
            places: places.clone(),
            names: code(name),
            answer: answer.into(),
            code: code(&rust.replace('\0', "|")),
            has_reason: !rust.is_empty(),
        });
    }
    rows
}

/// What stands between backticks.
fn code(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn each_name_of_python_is_there() {
    let Some(mut python) = support::python("tests/python_names.py") else { return };
    let output = run(&mut python);
    assert!(output.status.success(), "{output}");

    let mut page: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows() {
        for place in row.places {
            page.entry(place).or_default().extend(row.names.iter().cloned());
        }
    }
    let is_missing = |line: &&str| {
        let (place, name) = line.split_once('\t').expect("place, tab, name");
        !page.get(place).is_some_and(|names| names.contains(name))
    };
    let missing: BTreeSet<_> = output.stdout.lines().filter(is_missing).collect();
    let missing: Vec<_> = missing.into_iter().collect();
    assert!(
        missing.is_empty(),
        "{PAGE} lacks these (heading, name in the first column):\n{}",
        missing.join("\n")
    );
}

#[test]
fn each_row_has_an_answer() {
    let rows = rows();
    assert!(rows.len() > 200, "{} rows", rows.len());
    for row in rows {
        let is_known = ANSWERS.contains(&row.answer.as_str());
        assert!(is_known, "{PAGE}:{}: {:?} is none of {ANSWERS:?}", row.line, row.answer);
        assert!(row.has_reason, "{PAGE}:{}: the third column is empty", row.line);
    }
}

#[test]
fn each_rust_name_exists() {
    let existing = Existing::read();
    let mut wrong = Vec::new();
    for row in rows() {
        for code in row.code {
            if !FOREIGN_CODE.iter().any(|foreign| code.starts_with(foreign)) {
                let unknown = used(&code).into_iter().filter(|name| !existing.has(name));
                wrong.extend(unknown.map(|name| format!("{PAGE}:{}: {name} in {code}", row.line)));
            }
        }
    }
    assert!(wrong.is_empty(), "these are not public in the sources:\n{}", wrong.join("\n"));
}

/// The methods, functions and types in a piece of Rust.
///
/// Not among them: names of one letter, which stand for what the reader has, and text in quotes.
fn used(code: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_' || c == '"') {
        let (before, from) = rest.split_at(start);
        if let Some(quoted) = from.strip_prefix('"') {
            rest = quoted.split_once('"').expect("a closing quote").1;
            continue;
        }
        let end = from.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        let is_type = name.starts_with(char::is_uppercase);
        let is_called = after.starts_with('(') || before.ends_with("::");
        if name.len() > 1 && (is_type || is_called) {
            names.insert(name);
        }
        rest = after;
    }
    names
}

/// What users of the crates can name.
struct Existing(BTreeSet<String>);

impl Existing {
    fn read() -> Existing {
        let mut names: BTreeSet<String> =
            FOREIGN_NAMES.split_whitespace().map(str::to_owned).collect();
        for root in ["crates/proc-core/src", "crates/proc-cluster/src"] {
            let root = workspace().join(root);
            for exporting in ["lib.rs", "sync/mod.rs"] {
                let text = fs::read_to_string(root.join(exporting)).unwrap_or_default();
                let exported = text.split("pub use ").skip(1);
                let list = |text: &str| text.split(';').next().unwrap_or(text).to_owned();
                names.extend(exported.flat_map(|text| words(&list(text)).collect::<Vec<_>>()));
            }
            for_each_source(&root, &mut |text| {
                for line in text.lines().map(str::trim) {
                    names.extend(line.strip_prefix("pub fn ").and_then(first_word));
                    // A variant of an enum.
                    let is_variant = line.starts_with(char::is_uppercase) && line.ends_with(',');
                    names.extend(is_variant.then(|| first_word(line)).flatten());
                }
            });
        }
        Existing(names)
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

fn first_word(text: &str) -> Option<String> {
    words(text).next()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let is_other = |c: char| !c.is_alphanumeric() && c != '_';
    text.split(is_other).filter(|word| !word.is_empty()).map(str::to_owned)
}

fn for_each_source(directory: &Path, read: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            for_each_source(&path, read);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read(&fs::read_to_string(&path).expect("a source"));
        }
    }
}
