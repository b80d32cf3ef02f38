//! Each figure of a page has a source, which gives it.

use std::fs;
use std::path::PathBuf;

use crate::page::Page;
use crate::page::figures::{self, Section, Source};
use crate::{check_pages, root, show, visible_pages};

#[test]
fn figures_are_from_somewhere() {
    check_pages(visible_pages(), |page| {
        let unwritten = page.generated().filter(|_| !is_written_by_the_benchmark(page));
        let unwritten = unwritten.map(|line| (line, "no test of proc-bench writes this".into()));
        let sections = page.sections();
        unwritten.chain(sections.iter().flat_map(figure_problems)).collect()
    });
}

/// Whether the tests of the benchmark write figures into the page.
fn is_written_by_the_benchmark(page: &Page) -> bool {
    let writer = fs::read_to_string(root().join("crates/proc-bench/src/pages.rs"));
    let name = show(&page.file);
    // A record and its own page have one name.
    let names = [name.as_str(), name.trim_end_matches(".md")];
    let writer = writer.expect("a file of the workspace");
    names.iter().any(|name| writer.contains(&format!("\"{name}\"")))
}

/// What is wrong with the figures of a section, and with what says where they are from.
fn figure_problems(section: &Section) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    let mut known = Vec::new();
    for origin in &section.origins {
        let origin = match origin {
            Ok(origin) => origin,
            Err(line) => {
                problems.push((*line, "needs figures, a file or a day, and words".into()));
                continue;
            }
        };
        known.extend(&origin.figures);
        for figure in &origin.figures {
            let wrong = if section.has(figure) {
                wrong_with(&origin.source, figure)
            } else {
                Some("is not in this section".into())
            };
            problems.extend(wrong.map(|wrong| (origin.line, format!("{figure} {wrong}"))));
        }
    }
    let unknown = section.figures().into_iter().filter(|figure| !known.contains(&&figure.text));
    problems.extend(
        unknown.map(|figure| (figure.line, format!("nothing says where {} is from", figure.text))),
    );
    problems
}

/// Why a source is not that of a figure.
fn wrong_with(source: &Source, figure: &str) -> Option<String> {
    match source {
        Source::File { path, words } => match fs::read_to_string(root().join(path)) {
            Err(error) => Some(format!("is from {path}: {error}")),
            Ok(text) if !text.contains(words) => Some(format!("is from {path}, without: {words}")),
            Ok(_) => {
                (!figures::agrees(figure, words)).then(|| format!("is not what this says: {words}"))
            }
        },
        Source::Hand { date, how } => {
            let is_date =
                date.len() == 10 && date.split('-').all(|part| part.parse::<u32>().is_ok());
            (!is_date || how.is_empty()).then(|| "is by hand, without a date or a way".into())
        }
    }
}

#[test]
fn figures_are_found_in_every_form() {
    let text = "It takes 14 ms, **2.4 times** as long, half a
second or 3\u{a0}%. Task 5 has 1,000 tasks a second,
in 64KiB. A minute, three tasks and version 1.2 are none.

| row | 30 us | 93,600 |

<!-- benchmark: made from a record -->
| row | 7 us |
<!-- benchmark: end -->
```text
8 us
```
";
    let page = Page { file: PathBuf::new(), text: text.to_owned() };
    let sections = page.sections();
    let found = sections.iter().flat_map(Section::figures);
    let found: Vec<_> = found.map(|figure| (figure.line, figure.text)).collect();
    let wanted = [
        (1, "14 ms"),
        (1, "2.4 times"),
        (1, "half a second"),
        (2, "3 %"),
        (2, "1,000 tasks a second"),
        (3, "64KiB"),
        (5, "30 us"),
        (5, "93,600"),
    ];
    assert_eq!(found, wanted.map(|(line, text)| (line, text.to_owned())));
}

#[test]
fn figures_need_a_source_that_gives_them() {
    let problems = |comment: &str| -> Vec<String> {
        let text = format!("<!-- {comment} -->\nAfter 2 ms it ends.\n");
        let page = Page { file: PathBuf::new(), text };
        let found = page.sections().iter().flat_map(figure_problems).collect::<Vec<_>>();
        found.into_iter().map(|(line, what)| format!("{line}: {what}")).collect()
    };
    let file = "crates/proc-core/src/pool/job/inbox.rs";
    let words = "const CHUNK_NANOS: f64 = 2e6";
    let good = [
        format!("figure: 2 ms | {file} | {words}"),
        "by hand: 2 ms | 2026-11-26 | an example".to_owned(),
    ];
    for comment in good {
        assert_eq!(problems(&comment), [""; 0], "{comment}");
    }
    let bad = [
        ("about: something else".to_owned(), "2: nothing says where 2 ms is from"),
        (format!("figure: 3 ms | {file} | {words}"), "1: 3 ms is not in this section"),
        (format!("figure: 2 ms | {file} | const NOTHING"), "1: 2 ms is from"),
        (format!("figure: 2 ms | none.rs | {words}"), "1: 2 ms is from none.rs: No such file"),
        (format!("figure: 2 ms | {file} | f64"), "1: 2 ms is not what this says: f64"),
        ("by hand: 2 ms | lately | an example".to_owned(), "1: 2 ms is by hand, without a date"),
        ("by hand: 2 ms".to_owned(), "1: needs figures, "),
    ];
    for (comment, problem) in bad {
        let found = problems(&comment);
        assert!(found.iter().any(|found| found.starts_with(problem)), "{comment}: {found:?}");
    }
}
