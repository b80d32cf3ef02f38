//! Tests that pages show tested programs, as they are in their files, and outputs, as they are in
//! snapshots.
//!
//! A comment above a fenced block names its source, and the block must equal it:
//!
//! | comment | source |
//! |---|---|
//! | `<!-- file: path -->` | a whole file of the workspace |
//! | `<!-- snapshot: name -->` | what `tests/snapshots/name.snap` holds |
//!
//! `UPDATE_DOCS=1 cargo test -p readme-and-docs-tests` writes the sources into the pages.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The languages of blocks that need a source on the pages of questions and in README.md.
const LANGUAGES_WITH_SOURCE: [&str; 3] = ["rust", "python", "text"];

/// The sections of a question's page. Only questions with a program have the last two.
const SECTIONS: [&str; 7] = [
    "## The question",
    "## The answer",
    "## In Rust",
    "## What it prints",
    "## What differs, and why",
    "## In Python",
    "## Side by side",
];

#[test]
fn programs_and_outputs_are_the_tested_ones() {
    let mut problems = Vec::new();
    for page in pages() {
        let strict = is_question(&page) || page.ends_with("README.md");
        let (updated, mut found) = update(&read(&page), strict);
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&page, &updated).expect("a writable page");
            found = update(&updated, strict).1;
        }
        problems.extend(found.iter().map(|problem| format!("{}:{problem}", show(&page))));
    }
    assert!(problems.is_empty(), "{}\nUPDATE_DOCS=1 updates the blocks", problems.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    for page in pages() {
        for link in links(&read(&page)) {
            let (file, section) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.with_file_name(file),
            };
            let leads = target.exists() && (section.is_empty() || has_section(&target, section));
            if !leads {
                problems.push(format!("{}: {link}", show(&page)));
            }
        }
    }
    assert!(problems.is_empty(), "these links lead nowhere:\n{}", problems.join("\n"));
}

#[test]
fn questions_have_all_their_sections() {
    for page in pages().into_iter().filter(|page| is_question(page)) {
        let text = read(&page);
        for section in &SECTIONS[..if has_program(&page) { 7 } else { 5 }] {
            assert!(text.lines().any(|line| line == *section), "{}: no {section}", show(&page));
        }
    }
}

/// A program on a page needs no other file, and no crate except `proc-core` and `anyhow`.
#[test]
fn programs_can_be_copied() {
    for page in pages().into_iter().filter(|page| is_question(page)) {
        let text = read(&page);
        let shown = text.split("```rust\n").skip(1);
        let programs = shown.filter_map(|rest| rest.split_once("```")).map(|(program, _)| program);
        let programs = programs.filter(|program| program.contains("\nfn main() "));
        assert_eq!(programs.clone().count(), has_program(&page).into(), "{}", show(&page));
        for line in programs.flat_map(str::lines) {
            let line = line.trim_start();
            assert!(!line.starts_with("mod "), "{}: another file: {line}", show(&page));
            let crates = line.strip_prefix("use ").and_then(|path| path.split("::").next());
            assert!(
                crates.is_none_or(|name| ["anyhow", "proc_core", "std"].contains(&name)),
                "{}: another crate: {line}",
                show(&page)
            );
        }
    }
}

#[test]
fn no_page_and_no_program_is_left_out() {
    let index = read(&root().join("docs/README.md"));
    for page in files("docs", "md") {
        assert!(
            name(&page) == "README.md" || links(&index).contains(name(&page)),
            "docs/README.md does not mention {}",
            name(&page)
        );
    }
    let shown: String = pages().iter().map(|page| read(page)).collect();
    for program in files("docs/python", "py") {
        let comment = format!("<!-- file: docs/python/{} -->", name(&program));
        assert!(shown.contains(&comment), "no page shows {}", show(&program));
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace").to_owned()
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).expect("a directory");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

fn pages() -> Vec<PathBuf> {
    [files(".", "md"), files("docs", "md")].concat()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", show(file)))
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn show(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

fn is_question(page: &Path) -> bool {
    let mut letters = name(page).chars();
    letters.next() == Some('q') && letters.next().is_some_and(|digit| digit.is_ascii_digit())
}

/// Whether a question asks for a program.
fn has_program(page: &Path) -> bool {
    is_question(page) && !["q1", "q2"].iter().any(|question| name(page).starts_with(question))
}

/// Returns the page with each block as its source has it, and what is wrong with the present page.
fn update(page: &str, strict: bool) -> (String, Vec<String>) {
    let (mut updated, mut problems) = (String::new(), Vec::new());
    let mut source = None;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        updated += &format!("{line}\n");
        let Some(language) = line.strip_prefix("```") else {
            source = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
            continue;
        };
        let block = lines.by_ref().take_while(|(_, line)| *line != "```");
        let mut block: String = block.map(|(_, line)| format!("{line}\n")).collect();
        let language = language.split([',', ' ']).next().unwrap_or_default();
        match source.take().and_then(|source| Some((source, lookup(source)?))) {
            Some((source, Ok(text))) if text != block => {
                problems.push(format!(
                    "{}: differs from {source}\n{}",
                    number + 1,
                    diff(&block, &text)
                ));
                block = text;
            }
            Some((source, Err(why))) => problems.push(format!("{}: {source}: {why}", number + 1)),
            None if strict && LANGUAGES_WITH_SOURCE.contains(&language) => {
                problems.push(format!("{}: no comment names the source of this block", number + 1));
            }
            _ => {}
        }
        updated += &format!("{block}```\n");
    }
    (updated, problems)
}

/// The text that a comment names; `None` for an ordinary comment.
fn lookup(comment: &str) -> Option<Result<String, String>> {
    let read = |path: &str| fs::read_to_string(root().join(path)).map_err(|e| e.to_string());
    match comment.split_once(": ")? {
        ("snapshot", name) => {
            Some(read(&format!("tests/snapshots/{name}.snap")).and_then(|text| {
                let body = text.splitn(3, "---\n").nth(2);
                body.map(str::to_owned).ok_or_else(|| "not a snapshot".into())
            }))
        }
        ("file", path) => Some(read(path)),
        _ => None,
    }
}

/// The lines in which two texts differ: those between their common beginning and their common end.
fn diff(page: &str, source: &str) -> String {
    let (mut page, mut source): (Vec<_>, Vec<_>) =
        (page.lines().collect(), source.lines().collect());
    while !page.is_empty() && page.last() == source.last() {
        page.pop();
        source.pop();
    }
    let same = page.iter().zip(&source).take_while(|(a, b)| a == b).count();
    let removed = page[same..].iter().map(|line| format!("  -{line}\n"));
    let added = source[same..].iter().map(|line| format!("  +{line}\n"));
    format!("  @@ line {} of the block @@\n", same + 1) + &removed.chain(added).collect::<String>()
}

/// The targets of a page's links to other files of the workspace, and within the page.
fn links(page: &str) -> HashSet<String> {
    let mut links = HashSet::new();
    for line in prose(page) {
        // Every second part is between backticks, so it is code.
        let text: String = line.split('`').step_by(2).collect();
        for part in text.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.insert(target.to_owned());
            }
        }
    }
    links
}

/// The lines outside fenced blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Whether a page has a section that links on code hosts name `section`.
fn has_section(page: &Path, section: &str) -> bool {
    let name = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    prose(&read(page)).any(|line| line.starts_with('#') && name(line) == section)
}
