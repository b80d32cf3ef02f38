// What a page links to, and what can be linked to in it.
const attribute = (name) => [...document.querySelectorAll(`[${name}]`)].map((element) => element[name])
  .filter((value) => typeof value === "string");
return {
  links: [...new Set([...attribute("href"), ...attribute("src")])],
  anchors: attribute("id"),
};
