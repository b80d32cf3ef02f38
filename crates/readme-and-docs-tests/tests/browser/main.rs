//! The book in a browser: what readers see of each page, on a phone, a tablet and a laptop, in
//! light and in dark.
//!
//! mdBook builds the book, a server on loopback serves it, and Chromium shows it. Tests are skipped
//! where one of these is missing. With `BOOK_SCREENSHOTS=directory`, pictures of all pages are put
//! into that directory.

mod book;
mod driver;
#[path = "../../../../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};

use book::Book;
use driver::Browser;
use fantoccini::key::Key;
use serde_json::Value;
use support::machine::{self, or_skip};

/// Widths of windows in pixels: of a phone, a tablet, a laptop.
const WIDTHS: [u32; 3] = [PHONE, 768, LAPTOP];
const PHONE: u32 = 360;
const LAPTOP: u32 = 1280;

/// mdBook's names of the themes that a reader gets who has chosen none.
const LIGHT: &str = "light";
const DARK: &str = "navy";

/// What a page may weigh with all that it loads, in bytes. (Compressed, as it travels, it is a
/// third.)
const MAX_PAGE_BYTES: u64 = 300_000;

#[test]
fn mdbook_has_no_complaint() {
    let Some(book) = Book::build() else { return };
    assert!(book.complaints.is_empty(), "\n{}", book.complaints.join("\n"));
}

#[test]
fn pages_in_light() {
    check_pages(LIGHT);
}

#[test]
fn pages_in_dark() {
    check_pages(DARK);
}

/// Panics with all that is wrong with pages in a theme, each with page and width.
#[track_caller]
fn check_pages(theme: &str) {
    let Some(site) = Site::open() else { return };
    let axe = or_skip(machine::axe()).map(|file| fs::read_to_string(file).expect("a script"));
    site.browser.script(&format!("localStorage.setItem('mdbook-theme', '{theme}')"));
    let mut problems = Vec::new();
    for page in site.pages.keys() {
        for width in WIDTHS {
            site.browser.set_width(width);
            site.browser.open(&format!("{}{page}", site.address));
            let seen = site.browser.script(include_str!("seen.js"));
            let mut found = appearance(&seen, width, theme);
            found.extend(site.browser.console().into_iter().map(|line| format!("console: {line}")));
            found.extend(loaded(&seen, &site));
            if let Some(axe) = &axe {
                site.browser.script(axe);
                found.extend(violations(&site.browser.script_that_waits(include_str!("axe.js"))));
            }
            problems
                .extend(found.iter().map(|what| format!("{page} at {width} px, {theme}: {what}")));
            take_picture(&site.browser, page, width, theme);
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// What is wrong with the theme, the width and the pairs of a page.
fn appearance(seen: &Value, width: u32, theme: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let classes = text(&seen["theme"]);
    if !classes.split(' ').any(|class| class == theme) {
        problems.push(format!("the theme is another: {classes}"));
    }
    if seen["width"] != width {
        problems.push(format!("the window has {} px", seen["width"]));
    }
    let excess = number(&seen["excess"]);
    if excess > 0.0 {
        problems.push(format!("{excess} px too wide; widest: {}", text(&seen["widest"])));
    }
    for pair in list(&seen["pairs"]) {
        let what = match &list(&pair["boxes"])[..] {
            [left, right] => pair_problem(left, right, width),
            boxes => Some(format!("{} blocks", boxes.len())),
        };
        problems.extend(what.map(|what| format!("{what} in {}", text(&pair["text"]))));
    }
    problems
}

/// What is wrong with the places of two blocks, which are side by side on a laptop and stacked on a
/// phone.
fn pair_problem(first: &Value, second: &Value, width: u32) -> Option<String> {
    let is_stacked = number(&second["top"]) >= number(&first["bottom"]);
    let is_beside = number(&second["left"]) >= number(&first["right"]);
    let tops_differ = (number(&first["top"]) - number(&second["top"])).abs() > 0.5;
    let cut = number(&first["cut"]).max(number(&second["cut"]));
    if first["line"] != second["line"] {
        Some(format!("the lines differ in size: {} and {}", first["line"], second["line"]))
    } else if width == PHONE && !is_stacked {
        Some("not one below the other".into())
    } else if width == LAPTOP && !is_beside {
        Some("not side by side".into())
    } else if !is_stacked && tops_differ {
        Some(format!("tops at {} and {}", first["top"], second["top"]))
    } else if width == LAPTOP && cut > 0.0 {
        Some(format!("a line is {cut} px too long"))
    } else {
        None
    }
}

/// What is wrong with what a page has loaded: where it is from, and its weight.
///
/// The index of the search is not counted. It is loaded when somebody searches.
fn loaded(seen: &Value, site: &Site) -> Vec<String> {
    let loaded: BTreeSet<_> = list(&seen["loaded"]).iter().map(text).collect();
    let foreign = loaded.iter().filter(|address| !address.starts_with(&site.address));
    let mut problems: Vec<_> =
        foreign.map(|address| format!("a request to another host: {address}")).collect();
    let own = loaded.iter().filter_map(|address| address.strip_prefix(&site.address));
    let bytes: u64 =
        own.filter(|file| !file.contains("searchindex")).map(|file| site.book.bytes(file)).sum();
    if bytes > MAX_PAGE_BYTES {
        problems.push(format!("{bytes} bytes, and may have {MAX_PAGE_BYTES}"));
    }
    problems
}

/// The rules of accessibility that a page breaks.
fn violations(found: &Value) -> Vec<String> {
    let line = |violation: &Value| {
        let [rule, target, why] = ["rule", "target", "why"].map(|name| text(&violation[name]));
        format!("{rule}: {target}: {why}")
    };
    list(found).iter().map(line).collect()
}

/// Puts a picture of the page into the directory that `BOOK_SCREENSHOTS` names, if it does.
fn take_picture(browser: &Browser, page: &str, width: u32, theme: &str) {
    let Some(directory) = env::var_os("BOOK_SCREENSHOTS") else { return };
    let directory = support::workspace().join(directory);
    fs::create_dir_all(&directory).expect("a directory for pictures");
    let name = format!("{}-{width}-{theme}.png", page.trim_end_matches(".html").replace('/', "-"));
    let picture = data_encoding::BASE64.decode(browser.picture().as_bytes()).expect("base64");
    fs::write(directory.join(name), picture).expect("a writable directory");
}

/// The book's own script colours programs. It must not change them: readers copy what they see.
#[test]
fn programs_are_coloured_and_unchanged() {
    const PROGRAMS: &str = "(async () => {
        const page = await (await fetch(location.href)).text();
        const file = new DOMParser().parseFromString(page, 'text/html');
        const programs = ':is(.language-rust, .language-python)';
        const original = [...file.querySelectorAll(programs)];
        done([...document.querySelectorAll(programs)].map((code, index) => ({
            text: code.textContent,
            original: original[index].textContent,
            words: [...code.querySelectorAll('span')].map((word) => [word.className, word.textContent]),
        })));
    })()";
    let Some(site) = Site::open() else { return };
    let mut problems = Vec::new();
    let mut words = BTreeSet::new();
    for page in site.pages.keys() {
        site.browser.open(&format!("{}{page}", site.address));
        for program in list(&site.browser.script_that_waits(PROGRAMS)) {
            let first = text(&program["original"]).lines().next().unwrap_or_default();
            if program["text"] != program["original"] {
                problems.push(format!("{page}: changed: {first}"));
            }
            if list(&program["words"]).is_empty() {
                problems.push(format!("{page}: without colours: {first}"));
            }
            let pair = |word: &Value| [text(&word[0]).to_owned(), text(&word[1]).to_owned()];
            words.extend(list(&program["words"]).iter().map(pair));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    let wanted = [
        ["hljs-comment", "//! One function over many values, in several processes."],
        ["hljs-comment", "# do."],
        ["hljs-string", "\"__main__\""],
        ["hljs-string", "\"{name} works\""],
        ["hljs-keyword", "fn"],
        ["hljs-keyword", "def"],
        ["hljs-title", "square"],
        ["hljs-built_in", "println!"],
        ["hljs-meta", "#[derive(Serialize, Deserialize)]"],
        ["hljs-literal", "None"],
        ["hljs-number", "5"],
    ];
    let missing: Vec<_> =
        wanted.iter().filter(|word| !words.contains(&word.map(str::to_owned))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn links_and_anchors_lead_somewhere() {
    let Some(site) = Site::open() else { return };
    let mut links = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for page in site.pages.keys() {
        let address = format!("{}{page}", site.address);
        site.browser.open(&address);
        let found = site.browser.script(include_str!("links.js"));
        // What has no file name is the first page.
        let own = |link: &str| link.strip_prefix(&site.address).map(str::to_owned);
        let texts =
            |value: &Value| -> Vec<String> { list(value).iter().map(|v| text(v).into()).collect() };
        anchors.extend(texts(&found["anchors"]).into_iter().map(|id| format!("{page}#{id}")));
        let own = texts(&found["links"]).iter().filter_map(|link| own(link)).collect::<Vec<_>>();
        links.insert(page, own);
    }
    let leads = |link: &String| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let file = if file.is_empty() { "index.html" } else { file };
        site.book.has(file) && (anchor.is_empty() || anchors.contains(&format!("{file}#{anchor}")))
    };
    let dead = links.iter().flat_map(|(page, links)| {
        links
            .iter()
            .filter(|link| !leads(link))
            .map(move |link| format!("{page}: {link} leads nowhere"))
    });
    let dead: Vec<_> = dead.collect();
    assert!(dead.is_empty(), "\n{}", dead.join("\n"));
}

#[test]
fn search_finds_each_page_by_its_title() {
    let Some(site) = Site::open() else { return };
    let mut lost = Vec::new();
    for (page, title) in &site.pages {
        site.browser.open(&site.address);
        site.browser.keys("s");
        assert!(
            site.browser.becomes_true("document.activeElement.id === 'mdbook-searchbar'"),
            "the key S does not open the search"
        );
        site.browser.keys(title);
        let results = "[...document.querySelectorAll('#mdbook-searchresults a')]";
        let is_page = format!("link.href.startsWith('{}{page}')", site.address);
        if !site.browser.becomes_true(&format!("{results}.some((link) => {is_page})")) {
            lost.push(format!("{page}: not found by {title:?}"));
        }
    }
    assert!(lost.is_empty(), "\n{}", lost.join("\n"));
}

#[test]
fn keyboard_reaches_the_switch_of_languages() {
    const SHOWN: &str = "return [...document.querySelectorAll('.pair:has(.language-python) code')]
        .filter((code) => code.getClientRects().length > 0)
        .map((code) => code.classList.contains('language-python') ? 'Python' : 'Rust')";
    let Some(site) = Site::open() else { return };
    let browser = &site.browser;
    for width in WIDTHS {
        browser.set_width(width);
        browser.open(&format!("{}q3-even-odd.html", site.address));
        let is_seen = "(() => {
            const { left, top, width, height } = document.querySelector('.languages').getBoundingClientRect();
            const seen = document.elementFromPoint(left + width / 2, top + height / 2);
            return seen !== null && seen.closest('.languages') !== null;
        })()";
        assert!(browser.becomes_true(is_seen), "the switch is hidden at {width} px");

        let has_focus = "return document.activeElement.id == 'languages-both'";
        let reached = (0..300).any(|_| {
            browser.press(Key::Tab);
            browser.script(has_focus) == true
        });
        assert!(reached, "the key Tab does not reach the switch at {width} px");
        let both = browser.script(SHOWN);
        let languages = list(&both);
        assert!(languages.contains(&"Python".into()) && languages.contains(&"Rust".into()));
        let only = |language: &str| {
            let shown = browser.script(SHOWN);
            let shown = list(&shown);
            assert_eq!(shown.len() * 2, languages.len(), "at {width} px");
            assert!(shown.iter().all(|shown| shown == language), "{shown:?} at {width} px");
        };
        browser.press(Key::Right);
        only("Python");
        browser.press(Key::Right);
        only("Rust");
        browser.press(Key::Right);
        assert_eq!(browser.script(SHOWN), both, "at {width} px");
    }
}

/// The book in a browser.
struct Site {
    book: Book,
    browser: Browser,
    /// Where the book is served; ends in a slash.
    address: String,
    /// The pages and their titles, as the table of contents has them.
    pages: BTreeMap<String, String>,
}

impl Site {
    /// Builds and opens the book. Gives `None` where there is no mdBook or no browser.
    fn open() -> Option<Site> {
        const CONTENTS: &str = "return [...document.querySelectorAll('.chapter a')].map((link) => {
            link.querySelector('[aria-hidden]')?.remove();
            return [link.href, link.textContent.trim()];
        })";
        let book = Book::build()?;
        assert!(book.has("index.html"), "no book:\n{}", book.complaints.join("\n"));
        let browser = Browser::start()?;
        let address = book.serve();
        browser.open(&format!("{address}toc.html"));
        let contents = browser.script(CONTENTS);
        let page = |link: &Value| {
            let page = text(&link[0]).strip_prefix(&address).expect("a page of the book");
            (page.to_owned(), text(&link[1]).to_owned())
        };
        let pages: BTreeMap<_, _> = list(&contents).iter().map(page).collect();
        assert!(pages.contains_key("README.html"), "no first page in {pages:?}");
        browser.console(); // drops what toc.html has logged: it is no page of the book
        Some(Site { book, browser, address, pages })
    }
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[track_caller]
fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}
