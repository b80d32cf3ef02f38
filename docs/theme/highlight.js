// Colours programs in Rust and Python. mdBook brings a script for 40 languages, which alone weighs
// 137 KB: half of what a page may weigh. This one has the same names, so the colours of mdBook's
// themes and its book.js work with it.
"use strict";

const words = (list) => `\\b(?:${list.trim().replace(/\s+/g, "|")})\\b`;

// The kinds of words, in the order in which they are tried. So a keyword inside a comment or a
// string is not coloured as a keyword.
const LANGUAGES = {
  rust: {
    comment: String.raw`\/\/.*|\/\*[^]*?\*\/`,
    string: String.raw`\bb?r(?<hashes>#*)"[^]*?"\k<hashes>|\bb?"(?:\\[^]|[^"\\])*"|"(?:\\[^]|[^"\\])*"|'(?:\\[^']+|\\'|[^'\\])'`,
    symbol: String.raw`'[a-z_]\w*`,
    meta: String.raw`#!?\[[^\]]*\]`,
    title: String.raw`(?<=\b(?:fn|struct|enum|trait|mod) +)\w+`,
    keyword: words(`as async await break const continue crate dyn else enum extern fn for if impl in
      let loop match mod move mut pub ref return self Self static struct super trait type unsafe use
      where while`),
    literal: words("true false None Some Ok Err"),
    built_in: String.raw`\b\w+!(?=[(\[{])|` + words(`bool char f32 f64 i8 i16 i32 i64 i128 isize str
      u8 u16 u32 u64 u128 usize Box Option Result String Vec`),
    number: String.raw`\b\d[\d_]*(?:\.\d[\d_]*)?(?:e-?\d+)?\w*`,
  },
  python: {
    comment: "#.*",
    string: String.raw`\b[bfrBFR]{0,2}(?<quote>"""|'''|"|')(?:\\[^]|(?!\k<quote>)[^\\])*\k<quote>|(?<other>"""|'''|"|')(?:\\[^]|(?!\k<other>)[^\\])*\k<other>`,
    meta: String.raw`(?<=^ *)@[\w.]+`,
    title: String.raw`(?<=\b(?:def|class) +)\w+`,
    keyword: words(`and as assert async await break class continue def del elif else except finally
      for from global if import in is lambda nonlocal not or pass raise return try while with
      yield`),
    literal: words("True False None"),
    built_in: words(`bool bytes dict enumerate float int isinstance len list map max min next open
      print range repr reversed set sorted str sum super tuple type zip`),
    number: String.raw`\b\d[\d_]*(?:\.\d[\d_]*)?(?:e-?\d+)?`,
  },
};

for (const [name, kinds] of Object.entries(LANGUAGES)) {
  const groups = Object.entries(kinds).map(([kind, pattern]) => `(?<${kind}>${pattern})`);
  LANGUAGES[name] = { kinds: Object.keys(kinds), pattern: new RegExp(groups.join("|"), "gm") };
}

const highlightBlock = (block) => {
  const name = Object.keys(LANGUAGES).find((name) => block.classList.contains(`language-${name}`));
  if (!name) return;
  const { kinds, pattern } = LANGUAGES[name];
  const text = block.textContent;
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    const span = document.createElement("span");
    span.className = `hljs-${kinds.find((kind) => found.groups[kind] !== undefined)}`;
    span.textContent = found[0];
    parts.push(text.slice(end, found.index), span);
    end = found.index + found[0].length;
  }
  block.replaceChildren(...parts, text.slice(end));
};

globalThis.hljs = { configure() {}, highlightBlock };
