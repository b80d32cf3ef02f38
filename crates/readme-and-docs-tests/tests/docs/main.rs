//! The pages show what is tested: programs as they are in their files, outputs as in the snapshots
//! and in the recorded runs.
//!
//! A comment above a fenced block names its source, and the block must equal it:
//!
//! | comment | source |
//! |---|---|
//! | `<!-- file: path -->` | a whole file of the workspace |
//! | `<!-- file: path \| fn one, struct Two -->` | the items of a file that begin with these words |
//! | `<!-- snapshot: name -->` | what `tests/snapshots/name.snap` holds |
//! | `<!-- run: name -->` | the run in `docs/runs/name.txt`, which `.ci/record-runs` records |
//!
//! A figure of a text or of a table, such as `14 ms`, is in a part of the page that the benchmark
//! writes from its record (`crates/proc-bench/src/pages.rs`), or in a table that `lines.rs` makes,
//! or a comment of the same section says where the figure is from:
//!
//! | comment | source |
//! |---|---|
//! | `<!-- figure: 64 KiB, … \| path \| words -->` | a file of the workspace that has these words and, in them, the number |
//! | `<!-- by hand: 14 ms, … \| 2026-11-26 \| what -->` | what was measured, read or calculated on that day |
//!
//! `lines.rs` counts the lines of the recipes, and makes a table of them.
//!
//! Two blocks between `<div class="pair">` and `</div>` stand side by side: Python, then Rust.
//!
//! `UPDATE_DOCS=1 cargo test -p readme-and-docs-tests` writes the sources into the pages.

mod builds;
mod figures;
mod lines;
mod page;

use std::path::{Path, PathBuf};
use std::{env, fs};

use page::{Block, Page};

/// Languages that may stand on a page only with a source. Others are commands for a shell.
const LANGUAGES_WITH_SOURCE: [&str; 6] = ["", "rust", "python", "text", "toml", "json"];

/// A line in a pair may have so many characters. More do not fit into half of a laptop's screen.
const PAIR_WIDTH: usize = 60;

/// The sections of a question's page, in their order.
const SECTIONS: [&str; 6] = [
    "## The question",
    "## The answer",
    "## Python and Rust",
    "## What it prints",
    "## Side by side",
    "## What differs, and why",
];

/// Panics with the problems that `check` finds on all pages, each with page and line.
#[track_caller]
fn check_pages(pages: Vec<Page>, check: impl Fn(&Page) -> Vec<(usize, String)>) {
    let mut problems = Vec::new();
    for page in &pages {
        let found = check(page).into_iter();
        problems.extend(found.map(|(line, what)| format!("{}:{line}: {what}", show(&page.file))));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn programs_and_outputs_are_the_tested_ones() {
    if env::var_os("UPDATE_DOCS").is_some() {
        for page in pages() {
            let text = lines::renewed(page.renewed(lookup));
            fs::write(&page.file, text).expect("a writable page");
        }
    }
    check_pages(pages(), |page| {
        let is_in_book = !is_for_developers(page);
        let check = |block: &Block| {
            let source = block.source.as_deref().unwrap_or_default();
            match lookup(source) {
                Some(Ok(text)) if text == block.text => None,
                Some(Ok(text)) => {
                    let differs = diff(&block.text, &text);
                    Some(format!("not as {source}; UPDATE_DOCS=1 renews it\n{differs}"))
                }
                Some(Err(why)) => Some(format!("{source}: {why}")),
                None if is_in_book && LANGUAGES_WITH_SOURCE.contains(&block.language.as_str()) => {
                    Some("nothing says where this block is from".into())
                }
                None => None,
            }
        };
        let checked = page.blocks().into_iter();
        checked.filter_map(|block| Some((block.line, check(&block)?))).collect()
    });
}

#[test]
fn sources_stand_above_a_block() {
    check_pages(pages(), |page| {
        let sources = page.prose().filter_map(|(number, line)| {
            let source = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
            lookup(source).map(|_| (number, source))
        });
        let has_block = |number: usize| {
            page.text.lines().nth(number).is_some_and(|next| next.starts_with("```"))
        };
        let lonely = sources.filter(|(number, _)| !has_block(*number));
        lonely.map(|(number, source)| (number, format!("no block below: {source}"))).collect()
    });
}

#[test]
fn links_lead_somewhere() {
    check_pages(pages(), |page| {
        let leads = |link: &str| {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.file.clone(),
                file => page.file.with_file_name(file),
            };
            let has_section = || Page::read(&target).has_section(section);
            target.exists() && (section.is_empty() || has_section())
        };
        let dead = page.links().into_iter().filter(|(_, link)| !leads(link));
        dead.map(|(line, link)| (line, format!("{link} leads nowhere"))).collect()
    });
}

/// What a page of the book links to must be in the book. Files elsewhere are named by their path.
#[test]
fn pages_of_the_book_link_to_the_book() {
    check_pages(book(), |page| {
        let links = page.links().into_iter();
        let depth = page.file.components().count() - root().join("docs").components().count() - 1;
        let leaves = |link: &str| link.matches("../").count() > depth;
        let leaving = links.filter(|(_, link)| leaves(link));
        leaving.map(|(line, link)| (line, format!("{link} is not in the book"))).collect()
    });
}

#[test]
fn images_have_descriptions() {
    check_pages(pages(), |page| {
        let bare = |line: &str| {
            let html =
                line.contains("<img") && (!line.contains(" alt=\"") || line.contains("alt=\"\""));
            html || line.contains("![](")
        };
        let bare = page.prose().filter(|(_, line)| bare(line));
        bare.map(|(line, _)| (line, "an image without a description".into())).collect()
    });
}

#[test]
fn commands_name_what_is_there() {
    check_pages(pages(), |page| {
        let mut problems = Vec::new();
        for block in page.blocks() {
            if !["sh", "console"].contains(&block.language.as_str()) {
                continue;
            }
            for (number, command) in block.text.lines().enumerate() {
                let words: Vec<_> = command.split_whitespace().collect();
                let after = |option| {
                    let place = words.iter().position(|word| *word == option)?;
                    words.get(place + 1).copied()
                };
                let package = after("-p").filter(|_| words.contains(&"cargo"));
                let missing = package.filter(|package| !packages().contains(&(*package).into()));
                problems.extend(
                    missing.map(|name| (block.line + 1 + number, format!("no package {name}"))),
                );
            }
        }
        problems
    });
}

#[test]
fn pairs_show_the_same_program_twice() {
    check_pages(pages(), |page| {
        page.pairs().into_iter().flat_map(|(line, blocks)| pair_problems(line, &blocks)).collect()
    });
}

fn pair_problems(line: usize, blocks: &[Block]) -> Vec<(usize, String)> {
    let [left, right] = blocks else {
        return vec![(line, format!("a pair of {} blocks", blocks.len()))];
    };
    let mut problems = Vec::new();
    let languages = [left.language.as_str(), right.language.as_str()];
    if ![["python", "rust"], ["text", "text"], ["console", "console"], ["sh", "sh"]]
        .contains(&languages)
    {
        problems.push((line, format!("a pair of {languages:?}: Python is left, Rust is right")));
    }
    for block in blocks {
        for (number, text) in block.text.lines().enumerate() {
            if text.chars().count() > PAIR_WIDTH {
                let why = format!("more than {PAIR_WIDTH} characters in a pair");
                problems.push((block.line + 1 + number, why));
            }
        }
    }
    if languages != ["python", "rust"] {
        return problems;
    }
    let names = [left, right].map(|block| block.source.as_deref().and_then(program));
    if names[0].is_none() || names[0] != names[1] {
        problems.push((line, format!("different programs: {names:?}")));
    }
    let (python, rust) = (left.functions("def "), right.functions("fn "));
    for (name, at) in &python {
        if let Some((_, other)) =
            rust.iter().find(|(other, at_other)| other == name && at_other != at)
        {
            let lines = format!("{name} is in line {at} on the left, {other} on the right");
            problems.push((line, lines));
        }
    }
    problems
}

/// The program that a block is from: `q3` or the name of a program of the book.
fn program(source: &str) -> Option<String> {
    let path = source.strip_prefix("file: ")?.split(" | ").next()?;
    let is_question =
        |part: &&str| part.starts_with('q') && part[1..].starts_with(|c: char| c.is_ascii_digit());
    let question = path.split('/').find(is_question).map(|part| part[..2].to_owned());
    question.or_else(|| Some(Path::new(path).file_stem()?.to_str()?.to_owned()))
}

#[test]
fn questions_have_all_their_sections() {
    for page in pages().into_iter().filter(is_question) {
        let sections: Vec<_> =
            page.prose().map(|(_, line)| line).filter(|line| line.starts_with("## ")).collect();
        assert_eq!(sections, SECTIONS, "{}", show(&page.file));
    }
}

/// A copy of a whole program needs no other file, and no crates but `proc-core`, `proc-cluster`,
/// `anyhow`, `serde`, and those for which its page shows `cargo add`.
#[test]
fn programs_can_be_copied() {
    check_pages(book(), |page| {
        let mut problems = Vec::new();
        let commands = page.blocks().into_iter().filter(|block| block.language == "console");
        let added: String = commands.map(|block| block.text).collect();
        let added = added.lines().filter_map(|line| line.strip_prefix("cargo add "));
        let added: Vec<&str> = added.filter_map(|line| line.split(' ').next()).collect();
        for block in page.blocks().into_iter().filter(Block::is_whole_program) {
            for (number, line) in block.text.lines().enumerate() {
                let at = block.line + 1 + number;
                let line = line.trim_start();
                let crates = line.strip_prefix("use ").and_then(|path| path.split("::").next());
                let known = ["anyhow", "proc_core", "proc_cluster", "serde", "std"];
                let is_known = |name| known.contains(&name) || added.contains(&name);
                if line.starts_with("mod ") || crates.is_some_and(|name| !is_known(name)) {
                    problems.push((at, format!("a copy of the program lacks this: {line}")));
                }
            }
        }
        problems
    });
}

#[test]
fn the_contents_name_each_page_and_each_program_is_shown() {
    let contents = Page::read(&root().join("docs/SUMMARY.md"));
    let listed: Vec<_> = contents.links().into_iter().map(|(_, link)| link).collect();
    for page in book() {
        let path = page.file.strip_prefix(root().join("docs")).expect("a page of the book");
        let path = path.to_str().expect("a name in UTF-8");
        let listed = path == "SUMMARY.md" || listed.iter().any(|link| link == path);
        assert!(listed, "docs/SUMMARY.md does not name {path}");
    }
    let shown: String = pages().iter().map(|page| page.text.clone()).collect();
    let programs = [
        files("docs/python", "py"),
        files("docs/programs/src/bin", "py"),
        files("docs/programs/src/bin", "rs"),
    ];
    for program in programs.concat() {
        let comment = format!("<!-- file: {}", show(&program));
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

/// The names of the workspace's packages.
fn packages() -> Vec<String> {
    let mut names = vec!["book-programs".to_owned()];
    for directory in ["crates", "demos"] {
        let entries = fs::read_dir(root().join(directory)).expect("a directory");
        names.extend(
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")),
        );
    }
    names
}

/// All pages: those of the book, and those for developers.
fn pages() -> Vec<Page> {
    let developers = files(".", "md").into_iter().map(|file| Page::read(&file));
    developers.chain(book()).collect()
}

/// The pages of the book.
fn book() -> Vec<Page> {
    let files = [files("docs", "md"), files("docs/cluster", "md")].concat();
    files.iter().map(|file| Page::read(file)).collect()
}

/// The pages that are for users: the book, and the page that visitors see first.
fn visible_pages() -> Vec<Page> {
    pages().into_iter().filter(|page| !is_for_developers(page)).collect()
}

/// Pages in the top directory, except for the one that visitors see first.
fn is_for_developers(page: &Page) -> bool {
    page.file.parent() == Some(&root()) && !page.file.ends_with("README.md")
}

fn show(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

fn is_question(page: &Page) -> bool {
    let name = page.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with('q') && name[1..].starts_with(|letter: char| letter.is_ascii_digit())
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
        ("run", name) => Some(read(&format!("docs/runs/{name}.txt"))),
        ("file", source) => Some(match source.split_once(" | ") {
            None => read(source),
            Some((path, items)) => read(path).and_then(|text| page::items(&text, items)),
        }),
        _ => None,
    }
}

/// What stands between the common beginning and the common end of two texts.
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
