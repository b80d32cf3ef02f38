//! Each drawing of the book is made from its text: `docs/drawings/name.txt`, in characters, gives
//! `docs/drawings/name.svg`. `UPDATE_DOCS=1 cargo test -p readme-and-docs-tests` writes the images.
//!
//! An image has the colours of the page around it: dark lines on white, or light lines on a dark
//! ground where the page is dark. (Its rule is `prefers-color-scheme`, which in an `<img>` means
//! the page's `color-scheme`.) The image has a background of its own, so it can be read also on a
//! dark page that sets no `color-scheme`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use aasvg::RenderOptions;

/// A line of a drawing may have so many characters: they fit on a screen of 768 pixels.
const WIDTH: usize = 90;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// The names, without the extension, of the files in a folder of `docs` that have this extension.
fn names(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(docs().join(folder)).expect("a folder of docs");
    let files = entries.map(|entry| entry.expect("a file of docs").path());
    let wanted = files.filter(|file| file.extension() == Some(OsStr::new(extension)));
    let mut names: Vec<String> = wanted
        .map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn read(path: &str) -> String {
    fs::read_to_string(docs().join(path)).unwrap_or_default()
}

fn image(name: &str) -> String {
    let text = read(&format!("drawings/{name}.txt"));
    // Each text is as wide as its characters in any font, so it stays in its box.
    let options = RenderOptions::new().with_backdrop(true).with_stretch(true);
    aasvg::render_with_options(&text, &options) + "\n"
}

#[test]
fn images_are_made_from_their_texts() {
    let texts = names("drawings", "txt");
    assert!(!texts.is_empty(), "no drawings");
    if env::var_os("UPDATE_DOCS").is_some() {
        for name in &texts {
            let file = docs().join(format!("drawings/{name}.svg"));
            fs::write(file, image(name)).expect("a writable image");
        }
    }
    assert_eq!(texts, names("drawings", "svg"), "texts, and images");
    let old = |name: &&String| read(&format!("drawings/{name}.svg")) != image(name);
    let old: Vec<&String> = texts.iter().filter(old).collect();
    assert!(old.is_empty(), "not as their texts (UPDATE_DOCS=1 renews them): {old:?}");
}

#[test]
fn drawings_are_shown_and_fit() {
    let pages: String = names("", "md").iter().map(|page| read(&format!("{page}.md"))).collect();
    let texts = names("drawings", "txt");
    let hidden: Vec<&String> =
        texts.iter().filter(|name| !pages.contains(&format!("drawings/{name}.svg\""))).collect();
    assert!(hidden.is_empty(), "no page shows {hidden:?}");
    let is_wide = |name: &&String| {
        let text = read(&format!("drawings/{name}.txt"));
        text.lines().any(|line| line.chars().count() > WIDTH)
    };
    let wide: Vec<&String> = texts.iter().filter(is_wide).collect();
    assert!(wide.is_empty(), "lines of more than {WIDTH} characters: {wide:?}");
}
