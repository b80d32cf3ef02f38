// What a page looks like, for the test to judge.
const name = (element) => {
  const classes = element.classList.length ? "." + [...element.classList].join(".") : "";
  const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
  return `${element.localName}${classes} (${text})`;
};

// Wide things may scroll by themselves. The page may not, nor may what holds the whole page.
const holders = [document.scrollingElement, ...document.querySelectorAll(
  "body, #mdbook-body-container, .page-wrapper, .page, .content, main")];
const scrolls = (element) => ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(element).overflowX);
const isFree = (element) => {
  for (let above = element.parentElement; above; above = above.parentElement) {
    if (holders.includes(above)) return true;
    if (scrolls(above)) return false;
  }
};
const right = (element) => element.getBoundingClientRect().right;
const edge = right(document.querySelector("main"));
const wide = [...document.querySelectorAll("main *")]
  .filter((element) => right(element) > edge + 1 && isFree(element))
  .sort((a, b) => right(b) - right(a));

const isShown = (element) => element.getClientRects().length > 0;
const box = (block) => {
  const { left, right, top, bottom } = block.getBoundingClientRect();
  const code = block.querySelector("code");
  const style = getComputedStyle(code);
  return {
    left, right, top, bottom,
    line: `${style.fontSize}/${style.lineHeight}`,
    cut: code.scrollWidth - code.clientWidth,
  };
};

const page = performance.getEntriesByType("navigation");
const resources = performance.getEntriesByType("resource");
return {
  theme: document.documentElement.className,
  width: innerWidth,
  // The page itself, or a holder of it, is so many pixels wider than what is shown of it.
  excess: Math.max(...holders.map((holder) => holder.scrollWidth - holder.clientWidth)),
  widest: wide.length ? `${name(wide[0])}, ${Math.round(right(wide[0]) - edge)} px` : "unknown",
  pairs: [...document.querySelectorAll(".pair")].map((pair) => ({
    text: name(pair),
    boxes: [...pair.children].filter(isShown).map(box),
  })),
  loaded: [...page, ...resources].map((entry) => entry.name),
};
