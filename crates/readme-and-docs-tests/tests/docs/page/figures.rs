//! The figures of a page, such as `14 ms`, `3 %` or `half a second`, and what says where they are
//! from.

use super::Page;

/// Between these lines stands what is made from a record, by `crates/proc-bench/src/pages.rs`.
const GENERATED: [&str; 2] = ["<!-- benchmark: ", "<!-- benchmark: end -->"];

/// Between these lines stands what is counted in programs, by `lines.rs`.
const COUNTED: [&str; 2] = ["<!-- lines: ", "<!-- lines: end -->"];

const NUMBERS: &[(&str, f64)] = &[
    ("half", 0.5),
    ("one", 1.0),
    ("two", 2.0),
    ("three", 3.0),
    ("four", 4.0),
    ("five", 5.0),
    ("six", 6.0),
    ("seven", 7.0),
    ("eight", 8.0),
    ("nine", 9.0),
    ("ten", 10.0),
    ("twenty", 20.0),
    ("thirty", 30.0),
    ("fifty", 50.0),
    ("sixty", 60.0),
    ("hundred", 100.0),
    ("thousand", 1000.0),
];

/// Units of time, size and ratio, without the `s` of a plural. Rates are written with `/s`, or with
/// `a second` after what is counted.
const UNITS: &str = " ns us µs μs ms s nanosecond microsecond millisecond second minute hour day \
    B byte k kB KB M MB GB KiB MiB GiB TiB % percent time fold × ";

const SHARES: &[&str] =
    &["third", "thirds", "quarter", "quarters", "fifth", "tenth", "hundredth", "most"];

/// What a number of one unit may be in another one: the code may count in seconds or milliseconds
/// what the page gives in minutes, or in KiB or bytes what the page gives in MiB.
const SCALES: [f64; 9] = [1.0, 60.0, 3600.0, 1e3, 1e6, 1e9, 1024.0, 1048576.0, 1073741824.0];

/// A figure in the text of a page.
pub(crate) struct Figure {
    pub(crate) line: usize,
    /// As on the page; white space between number and unit is one space.
    pub(crate) text: String,
}

/// What says where some figures of a section are from.
pub(crate) struct Origin {
    pub(crate) line: usize,
    pub(crate) figures: Vec<String>,
    pub(crate) source: Source,
}

pub(crate) enum Source {
    /// A file of the workspace, and words of it.
    File { path: String, words: String },
    /// The day of a measurement by hand, and what was measured or calculated.
    Hand { date: String, how: String },
}

/// A part of a page from one heading to the next, without blocks and without what is generated.
pub(crate) struct Section {
    /// The words of a paragraph or of a table's cell, each with its line.
    texts: Vec<Vec<(usize, String)>>,
    pub(crate) origins: Vec<Result<Origin, usize>>,
}

impl Section {
    pub(crate) fn figures(&self) -> Vec<Figure> {
        self.texts.iter().flat_map(|words| figures(words)).collect()
    }

    /// Whether these words stand in a paragraph of the section.
    pub(crate) fn has(&self, words: &str) -> bool {
        let text = |text: &Vec<(usize, String)>| -> String {
            text.iter().map(|(_, word)| format!(" {word}")).collect()
        };
        self.texts.iter().any(|one| format!("{} ", text(one)).contains(&format!(" {words} ")))
    }
}

impl Page {
    /// The lines where something begins that is made from a record.
    pub(crate) fn generated(&self) -> impl Iterator<Item = usize> {
        let begins = |line: &str| line.starts_with(GENERATED[0]) && line != GENERATED[1];
        self.prose().filter(move |(_, line)| begins(line)).map(|(number, _)| number)
    }

    pub(crate) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section { texts: Vec::new(), origins: Vec::new() }];
        let mut is_generated = false;
        let mut last = 0;
        for (number, line) in self.prose() {
            for [begin, end] in [GENERATED, COUNTED] {
                if line.starts_with(begin) {
                    is_generated = line != end;
                }
            }
            if line.starts_with('#') {
                sections.push(Section { texts: Vec::new(), origins: Vec::new() });
            }
            let section = sections.last_mut().expect("one is there from the start");
            if let Some(comment) = line.trim_start().strip_prefix("<!-- ") {
                section.origins.extend(origin(number, comment));
            } else if !is_generated && !line.is_empty() {
                let is_table = line.starts_with('|');
                if number != last + 1 || is_table || section.texts.is_empty() {
                    section.texts.push(Vec::new());
                }
                last = number;
                for (index, cell) in line.split('|').enumerate() {
                    if is_table && index > 0 {
                        section.texts.push(Vec::new());
                    }
                    let text = section.texts.last_mut().expect("one was pushed");
                    text.extend(cell.split_whitespace().map(|word| (number, bare(word).into())));
                }
            }
        }
        sections
    }
}

/// The origin that a comment gives; nothing if it is about something else, and its line if it is
/// not written as it must be.
fn origin(line: usize, comment: &str) -> Option<Result<Origin, usize>> {
    let (kind, rest) = comment.strip_suffix(" -->")?.split_once(": ")?;
    if !["figure", "by hand"].contains(&kind) {
        return None;
    }
    let parts: Vec<_> = rest.splitn(3, " | ").map(str::to_owned).collect();
    let Ok([figures, first, second]) = <[String; 3]>::try_from(parts) else {
        return Some(Err(line));
    };
    let figures = figures.split(", ").map(str::to_owned).collect();
    let source = match kind {
        "figure" => Source::File { path: first, words: second },
        _ => Source::Hand { date: first, how: second },
    };
    Some(Ok(Origin { line, figures, source }))
}

/// A word without its marks: `(14` and `**ms**,` are 14 and ms.
fn bare(word: &str) -> &str {
    let marks = |c: char| !c.is_alphanumeric() && !"%×".contains(c);
    word.trim_start_matches(|c: char| marks(c) && !"<>".contains(c)).trim_end_matches(marks)
}

/// The number that a word is: in digits, with commas between thousands, or in letters.
pub(crate) fn number(word: &str) -> Option<f64> {
    let named = NUMBERS.iter().find(|(name, _)| *name == word.to_lowercase());
    named.map(|(_, number)| *number).or_else(|| {
        let digits = word.starts_with(|c: char| c.is_ascii_digit());
        digits.then(|| word.replace([',', '_'], "").parse().ok())?
    })
}

fn is_unit(word: &str) -> bool {
    let word = word.strip_suffix("/s").unwrap_or(word);
    let is_one = |word: &str| UNITS.contains(&format!(" {word} "));
    is_one(word) || word.strip_suffix('s').is_some_and(is_one)
}

/// The figures in words that follow each other.
fn figures(words: &[(usize, String)]) -> Vec<Figure> {
    let mut found = Vec::new();
    for (place, (line, word)) in words.iter().enumerate() {
        let next: Vec<&str> = words[place + 1..].iter().take(3).map(|(_, w)| w.as_str()).collect();
        let more = if words.len() == 1 && word.len() > 1 && has_digits(word) {
            Some(0) // a cell of a table
        } else if number(word).is_some() {
            match &next[..] {
                ["a" | "an", unit, ..] if word.eq_ignore_ascii_case("half") && is_unit(unit) => {
                    Some(2)
                }
                [unit, ..] if is_unit(unit) && *unit != "time" => Some(1),
                [_, "a" | "per", "second", ..] => Some(3),
                ["of", "the", "time"] => Some(3),
                _ => None,
            }
        } else if SHARES.contains(&word.as_str()) && next == ["of", "the", "time"] {
            Some(3)
        } else if let Some(end) = word.find(|c: char| !c.is_ascii_digit() && !".,".contains(c)) {
            let unit = word[end..].trim_start_matches('-');
            (end > 0 && is_unit(unit) && unit != "time").then_some(0)
        } else {
            None
        };
        if let Some(more) = more {
            let rest: String = next[..more].iter().map(|word| format!(" {word}")).collect();
            found.push(Figure { line: *line, text: format!("{word}{rest}") });
        }
    }
    found
}

fn has_digits(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether words of a file give the number of a figure, in its own unit or in another one.
pub(crate) fn agrees(figure: &str, words: &str) -> bool {
    let end = figure.find(|c: char| !c.is_alphanumeric() && !".,".contains(c));
    let digits = figure.find(|c: char| !c.is_ascii_digit() && !".,".contains(c));
    let first = &figure[..end.unwrap_or(figure.len())];
    let first = if has_digits(first) { &figure[..digits.unwrap_or(figure.len())] } else { first };
    let Some(wanted) = number(first) else { return false };
    let parts = words.split(|c: char| !c.is_alphanumeric() && !"_.,".contains(c));
    let numbers: Vec<f64> = parts.filter_map(|part| number(bare(part))).collect();
    numbers.iter().any(|number| SCALES.iter().any(|scale| *number == wanted * scale))
}
