//! Without `use`, `main` and `init`, no recipe in Rust is longer than its program in Python. A
//! table on their page has the lines of each program, and this file makes it.

use crate::page::{Block, Page};
use crate::root;

/// The table stands between these lines.
const TABLE: [&str; 2] = ["<!-- lines: made of the programs -->\n", "<!-- lines: end -->\n"];

/// The lines of the two programs of a recipe, without empty lines and comments.
struct Lines {
    python: usize,
    /// Those of the Python program that each program has: imports, and the guard of `__main__`.
    python_frame: usize,
    rust: usize,
    /// Those of the Rust program that each program has: `use`, `main`, `init`, `Ok(())`.
    rust_frame: usize,
}

#[test]
fn recipes_are_as_short_as_in_python() {
    let page = Page::read(&root().join("docs/recipes.md"));
    assert_eq!(renewed(page.text.clone()), page.text, "UPDATE_DOCS=1 renews the table");
    let recipes = recipes(&page);
    assert!(!recipes.is_empty(), "the page has no recipes");
    for (name, Lines { python, rust, rust_frame, .. }) in recipes {
        let longer = format!("{name}: {rust} lines, {rust_frame} of them for use, main and init");
        assert!(rust - rust_frame <= python, "{longer}, but {python} lines in Python");
    }
}

/// The text of a page, with the lines of its programs as they are now.
pub(crate) fn renewed(text: String) -> String {
    let Some((before, rest)) = text.split_once(TABLE[0]) else { return text };
    let Some((_, after)) = rest.split_once(TABLE[1]) else { return text };
    let mut table =
        "\n| recipe | Python | imports, guard | Rust | `use`, `main`, `init` |\n".to_owned();
    table += "|---|--:|--:|--:|--:|\n";
    let page = Page { file: "recipes.md".into(), text: text.clone() };
    for (name, lines) in recipes(&page) {
        let Lines { python, python_frame, rust, rust_frame } = lines;
        let section = name.to_lowercase().replace(' ', "-");
        let section: String =
            section.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect();
        table += &format!("| [{name}](#{section}) | {python} | {python_frame} | {rust} | ");
        table += &format!("{rust_frame} |\n");
    }
    format!("{before}{}{table}\n{}{after}", TABLE[0], TABLE[1])
}

/// The recipes of a page: the heading above each pair of programs, and their lines.
fn recipes(page: &Page) -> Vec<(String, Lines)> {
    let headings: Vec<(usize, &str)> =
        page.prose().filter(|(_, line)| line.starts_with("## ")).collect();
    let recipe = |(at, blocks): (usize, Vec<Block>)| {
        let [python, rust] = &blocks[..] else { return None };
        if !python.source.as_ref()?.contains("/recipe_") {
            return None;
        }
        let (_, heading) = headings.iter().rev().find(|(line, _)| *line < at)?;
        let (python, python_frame) = python_lines(&python.text);
        let (rust, rust_frame) = rust_lines(&rust.text);
        let lines = Lines { python, python_frame, rust, rust_frame };
        Some((heading.trim_start_matches("## ").to_owned(), lines))
    };
    page.pairs().into_iter().filter_map(recipe).collect()
}

/// The lines of a Python program that are neither empty nor a comment, and how many of them are
/// those that each program has. A docstring in one line is a comment.
fn python_lines(text: &str) -> (usize, usize) {
    let is_comment = |line: &str| ["#", "\"\"\""].iter().any(|c| line.trim().starts_with(c));
    let lines = text.lines().filter(|line| !line.is_empty() && !is_comment(line));
    let of_all = ["import ", "from ", "if __name__ == "];
    let is_frame = |line: &&str| of_all.iter().any(|words| line.starts_with(words));
    (lines.clone().count(), lines.filter(is_frame).count())
}

/// The lines of a Rust program that are neither empty nor a comment, and how many of them are those
/// that each program has.
fn rust_lines(text: &str) -> (usize, usize) {
    let lines = text.lines().filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !line.trim().starts_with("//")).collect();
    let is_main = |line: &str| line.ends_with("fn main() -> Result<()> {");
    let main = lines.iter().position(|line| is_main(line)).expect("a program has a main");
    let end = main + lines[main..].iter().position(|line| *line == "}").expect("main ends");
    let mut frame = 0;
    let mut is_in_use = false;
    for (at, line) in lines.iter().enumerate() {
        is_in_use |= line.starts_with("use ");
        let of_main = at == main || at == end;
        let of_all = ["    proc_core::init();", "    Ok(())", "#[tokio::main]"].contains(line);
        frame += usize::from(is_in_use || of_main || (of_all && (main - 1..end).contains(&at)));
        is_in_use &= !line.ends_with(';');
    }
    (lines.len(), frame)
}

#[test]
fn lines_are_counted() {
    let python = "\"\"\"What it is.\"\"\"\n\nimport os\n\n# Why.\nx = 1\n    # So.\n    y = 2\n";
    assert_eq!(python_lines(python), (3, 1));
    let rust = "//! What it is.\n\nuse std::{\n    a,\n};\n\nfn f() {}\n\n\
                fn main() -> Result<()> {\n    proc_core::init();\n    // Why.\n    f();\n    Ok(())\n}\n";
    assert_eq!(rust_lines(rust), (9, 7));
}
