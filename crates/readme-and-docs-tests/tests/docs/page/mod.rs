//! A page in Markdown: its blocks, pairs, links, headings and figures.

pub(crate) mod figures;

use std::fs;
use std::path::{Path, PathBuf};

/// A page as it is in its file.
pub(crate) struct Page {
    pub(crate) file: PathBuf,
    pub(crate) text: String,
}

/// A fenced block. Line numbers count from 1.
#[derive(Debug)]
pub(crate) struct Block {
    /// The line of the opening fence.
    pub(crate) line: usize,
    pub(crate) language: String,
    /// The comment above the block, if there is one: `file: …`, `snapshot: …` or `run: …`.
    pub(crate) source: Option<String>,
    pub(crate) text: String,
}

impl Block {
    /// The functions of the block that begin with this word, and the line of each in the block.
    pub(crate) fn functions(&self, word: &str) -> Vec<(String, usize)> {
        let lines = self.text.lines().zip(1..);
        let function = |(line, number): (&str, usize)| {
            let name = line.trim_start_matches("pub(crate) ").strip_prefix(word)?;
            let name: String =
                name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            Some((name, number))
        };
        lines.filter_map(function).collect()
    }

    /// Whether the block is a program in Rust that is there to be copied.
    pub(crate) fn is_whole_program(&self) -> bool {
        let is_main = |line: &str| line.trim_start_matches("async ").starts_with("fn main()");
        self.language == "rust" && self.text.lines().any(is_main)
    }
}

impl Page {
    pub(crate) fn read(file: &Path) -> Page {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Page { file: file.to_owned(), text }
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut source = None;
        let mut lines = self.text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            let Some(language) = line.strip_prefix("```") else {
                source = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
                continue;
            };
            let language = language.split([',', ' ']).next().unwrap_or_default().to_owned();
            let block = lines.by_ref().map(|(line, _)| line).take_while(|line| *line != "```");
            let text = block.map(|line| format!("{line}\n")).collect();
            blocks.push(Block {
                line: number,
                language,
                source: source.take().map(str::to_owned),
                text,
            });
        }
        blocks
    }

    /// The page with the text of its sources in its blocks.
    pub(crate) fn renewed(
        &self,
        lookup: impl Fn(&str) -> Option<Result<String, String>>,
    ) -> String {
        let mut lines = self.text.split_inclusive('\n').zip(1..);
        let mut renewed = String::new();
        for block in self.blocks() {
            let before = lines.by_ref().take_while(|(_, number)| *number < block.line);
            renewed.extend(before.map(|(line, _)| line));
            // `take_while` has taken the opening fence too.
            renewed += self.text.lines().nth(block.line - 1).unwrap_or_default();
            renewed.push('\n');
            lines.by_ref().take(block.text.lines().count()).for_each(drop);
            let source = block.source.as_deref().and_then(&lookup);
            renewed += &source.and_then(Result::ok).unwrap_or(block.text);
        }
        renewed.extend(lines.map(|(line, _)| line));
        renewed
    }

    /// The pairs: the line where each begins, and its blocks.
    pub(crate) fn pairs(&self) -> Vec<(usize, Vec<Block>)> {
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (line, number) in self.prose().map(|(number, line)| (line, number)) {
            match line {
                "<div class=\"pair\">" => pairs.push((number, usize::MAX)),
                "</div>" => pairs.iter_mut().rev().take(1).for_each(|pair| pair.1 = number),
                _ => {}
            }
        }
        let mut blocks = self.blocks().into_iter().peekable();
        let mut found = Vec::new();
        for (start, end) in pairs {
            while blocks.next_if(|block| block.line < start).is_some() {}
            let mut pair = Vec::new();
            while let Some(block) = blocks.next_if(|block| block.line < end) {
                pair.push(block);
            }
            found.push((start, pair));
        }
        found
    }

    /// The lines outside fenced blocks, with their numbers.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut is_in_block = false;
        (1..).zip(self.text.lines()).filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_in_block ^= is_fence;
            !is_in_block && !is_fence
        })
    }

    /// The targets of links to files of the workspace and to sections of the page, each with its
    /// line.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (number, line) in self.prose() {
            // What stands between backticks is code: every second part.
            let text: String = line.split('`').step_by(2).collect();
            for part in text.split("](").skip(1) {
                let target = part.split([')', ' ']).next().unwrap_or_default();
                if !target.contains("://") && !target.starts_with("mailto:") {
                    links.push((number, target.to_owned()));
                }
            }
        }
        links
    }

    /// Whether the page has a section of this name, as code hosts and mdBook name it in links.
    pub(crate) fn has_section(&self, section: &str) -> bool {
        let name = |heading: &str| -> String {
            let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        };
        self.prose().any(|(_, line)| line.starts_with('#') && name(line) == section)
    }
}

/// The items of a program that begin with these words, as they stand in its file.
///
/// An item ends before the next line that is neither empty nor indented nor a closing bracket.
/// Items that follow each other in the file keep the empty lines between them.
pub(crate) fn items(text: &str, beginnings: &str) -> Result<String, String> {
    let lines: Vec<_> = text.lines().collect();
    let mut shown: Vec<&str> = Vec::new();
    let mut last = None;
    for beginning in beginnings.split(", ") {
        let start = lines.iter().position(|line| line.starts_with(beginning));
        let start = start.ok_or_else(|| format!("nothing begins with {beginning:?}"))?;
        let is_inside = |line: &&&str| line.is_empty() || line.starts_with([' ', '}', ')', ']']);
        let end = start + 1 + lines[start + 1..].iter().take_while(is_inside).count();
        // Comments and attributes above the item belong to it.
        let above =
            lines[..start].iter().rev().take_while(|line| line.starts_with(['/', '#', '@']));
        let start = start - above.count();
        if last.is_some_and(|last| last != start) {
            shown.push("");
        }
        shown.extend(&lines[start..end]);
        last = Some(end);
    }
    while shown.last().is_some_and(|line| line.is_empty()) {
        shown.pop();
    }
    Ok(shown.join("\n") + "\n")
}
