// What mdBook leaves out for readers who use a keyboard, a screen reader or a phone. A test runs
// axe-core on each page, and says what is missing when a new mdBook has other markup.
"use strict";

// The bar is outside of all landmarks.
document.getElementById("mdbook-menu-bar").setAttribute("role", "banner");

// The button of the sidebar is the label of a checkbox that is not displayed: no key reaches it. A
// real button takes its place.
const label = document.getElementById("mdbook-sidebar-toggle");
const checkbox = document.getElementById("mdbook-sidebar-toggle-anchor");
const button = document.createElement("button");
button.type = "button";
button.className = label.className;
button.title = label.title;
button.setAttribute("aria-label", label.title);
button.setAttribute("aria-controls", "mdbook-sidebar");
button.append(...label.childNodes);
const tell = () => button.setAttribute("aria-expanded", checkbox.checked);
button.addEventListener("click", () => label.click());
checkbox.addEventListener("change", tell);
tell();
label.hidden = true;
label.style.display = "none";
label.after(button);

// What is wider than the page scrolls alone, in its own box. The arrow keys scroll it once the key
// Tab has reached it.
const reach = (wide) => {
  if (wide.scrollWidth > wide.clientWidth) {
    wide.tabIndex = 0;
  } else {
    wide.removeAttribute("tabindex");
  }
};
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => reach(target)));
for (const wide of document.querySelectorAll("main :is(.table-wrapper, pre > code, figure, p:has(.checkbox-label))")) {
  reach(wide);
  sizes.observe(wide);
}

// A comment before a program names its file. (What follows in it names parts of the file.)
for (const block of document.querySelectorAll("main pre")) {
  let before = block.previousSibling;
  while (before?.nodeType === Node.TEXT_NODE && !before.data.trim()) before = before.previousSibling;
  const file = before?.nodeType === Node.COMMENT_NODE && before.data.match(/^ file: (\S+)/);
  if (file) block.dataset.file = file[1];
}

// On a phone, where a row of a table is a card, each cell says to which column it belongs.
for (const table of document.querySelectorAll("main table")) {
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const row of table.tBodies[0]?.rows ?? []) {
    for (const cell of row.cells) {
      const head = heads[cell.cellIndex];
      if (head) cell.dataset.head = head;
    }
  }
}

// A short piece of code is not broken. In a longer one, no option and no start of an attribute is
// broken, though a browser would break them after a hyphen or a `#`. A long path is broken between
// its parts, if it does not fit.
const whole = (text) => {
  const word = document.createElement("span");
  word.className = "whole";
  word.textContent = text;
  return word;
};
for (const code of document.querySelectorAll("main :not(pre) > code")) {
  if (code.textContent.length <= 24) {
    code.classList.add("whole");
    continue;
  }
  const words = code.textContent.split(/((?<!\S)--?\S+|#\[\w+)/);
  const pieces = words.flatMap((word, index) => {
    if (index % 2 === 1) return [whole(word)];
    const [first, ...others] = word.split(/(?<=\w\/)(?=\w)/);
    return [first, ...others.flatMap((part) => [document.createElement("wbr"), part])];
  });
  code.replaceChildren(...pieces);
}

// The empty corner of a table heads nothing; Markdown has no other word for it.
for (const corner of document.querySelectorAll("main th:empty")) {
  corner.replaceWith(document.createElement("td"));
}
