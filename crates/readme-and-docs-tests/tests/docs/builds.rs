//! The programs of the pages build. Where one does not, the test names page and line, while cargo
//! by itself would name only the file. (`cargo test` without `-p` stops before any test in that
//! case; so `.ci/run` runs this test first.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use crate::page::{Block, Page};
use crate::{pages, root, show};

/// A place in a file of the workspace where the compiler has found an error.
struct Error {
    file: String,
    line: usize,
    message: String,
}

#[test]
fn programs_build() {
    let pages = pages();
    let sources = pages.iter().flat_map(Page::blocks).filter_map(|block| block.source);
    let packages: BTreeSet<String> = sources.filter_map(|source| package(&source)).collect();
    let test = env::current_exe().expect("a test has a file");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--bins", "--examples", "--keep-going", "--message-format=json"]);
    build.args(packages.iter().map(|package| format!("--package={package}")));
    build.arg("--target-dir").arg(profile.parent().expect("target/<profile>"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.current_dir(root()).output().expect("cargo");
    let messages = String::from_utf8_lossy(&built.stdout);
    let errors: Vec<Error> = messages.lines().filter_map(error).collect();
    let problems: BTreeSet<String> = errors.iter().map(|error| problem(error, &pages)).collect();
    let problems: Vec<String> = problems.into_iter().collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    assert!(built.status.success(), "cargo:\n{}", String::from_utf8_lossy(&built.stderr));
}

/// The package of a program in Rust that a page shows.
fn package(source: &str) -> Option<String> {
    let file = Path::new(path(source)?);
    let mut parts = file.extension().filter(|e| *e == "rs").and(file.to_str())?.split('/');
    match parts.next()? {
        "docs" => Some("book-programs".into()),
        _ => parts.next().map(str::to_owned),
    }
}

/// The file that a comment above a block names.
fn path(source: &str) -> Option<&str> {
    source.strip_prefix("file: ")?.split(" | ").next()
}

/// The error that a line of cargo's output tells, if it tells one.
fn error(line: &str) -> Option<Error> {
    let told: Value = serde_json::from_str(line).ok()?;
    let message = &told["message"];
    if told["reason"] != "compiler-message" || message["level"] != "error" {
        return None;
    }
    let spans = message["spans"].as_array()?;
    let span = spans.iter().find(|span| span["is_primary"] == true)?;
    Some(Error {
        file: span["file_name"].as_str()?.to_owned(),
        line: usize::try_from(span["line_start"].as_u64()?).ok()?,
        message: message["message"].as_str()?.to_owned(),
    })
}

/// An error, and all places where the pages show its line, or another part of its file.
fn problem(error: &Error, pages: &[Page]) -> String {
    let Error { file, line, message } = error;
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    let wrong = text.lines().nth(line - 1).unwrap_or_default();
    let mut shown = Vec::new();
    for page in pages {
        let is_of_file = |block: &Block| block.source.as_deref().and_then(path) == Some(file);
        for block in page.blocks().iter().filter(|block| is_of_file(block)) {
            // Of several equal lines, it is the one whose number is nearest to that in the file.
            let places = block.text.lines().zip(1..).filter(|(text, _)| *text == wrong);
            let place = places.map(|(_, place)| place).min_by_key(|place| line.abs_diff(*place));
            let at = block.line + place.unwrap_or(0);
            shown.push(format!("{}:{at}", show(&page.file)));
        }
    }
    let told = format!("{file}:{line}: {message}");
    if shown.is_empty() { told } else { format!("{}: does not build: {told}", shown.join(", ")) }
}

/// What cargo said of a program with an unknown name, without the parts that are not read.
#[test]
fn an_error_is_found_on_the_page_that_shows_it() {
    let told = |level: &str, line: usize| {
        format!(
            r#"{{"reason":"compiler-message","message":{{"level":"{level}","message":"cannot find
            function","spans":[{{"is_primary":true,"file_name":"none.rs","line_start":{line}}}]}}}}"#
        )
        .replace("\n            ", " ")
    };
    assert!(error(&told("warning", 3)).is_none());
    assert!(error("not JSON").is_none());
    let error = error(&told("error", 3)).expect("an error");
    assert_eq!((error.file.as_str(), error.line), ("none.rs", 3));

    // A page that shows this very file.
    let file = "crates/readme-and-docs-tests/tests/docs/builds.rs";
    let text = fs::read_to_string(root().join(file)).expect("this file");
    let (number, line) =
        (1..).zip(text.lines()).find(|(_, line)| line.contains("A page that")).expect("this line");
    let error = Error { file: file.to_owned(), line: number, message: "it is wrong".to_owned() };
    let page = |items: &str, text: &str| Page {
        file: PathBuf::from("page.md"),
        text: format!("Text.\n\n<!-- file: {file}{items} -->\n```rust\n{text}```\n"),
    };
    let at = |page: Page| {
        let told = problem(&error, &[page]);
        told.split(' ').next().map(str::to_owned)
    };
    assert_eq!(at(page("", &text)), Some(format!("page.md:{}:", 4 + number)), "the whole file");
    assert_eq!(at(page(" | fn one", &format!("fn one\n{line}\n"))), Some("page.md:6:".into()));
    assert_eq!(at(page(" | fn other", "fn other\n")), Some("page.md:4:".into()), "not shown");
}
