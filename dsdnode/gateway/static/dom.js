// Elements, made without ever parsing a text as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Appends them one by one: as arguments of a call, a hundred thousand of them would be too many. */
export function put(made, children) {
  for (const child of children) made.append(child);
  return made;
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  return put(made, children.flat().filter((child) => child !== undefined && child !== null && child !== ""));
}

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
export const byId = (id) => document.getElementById(id);

export function button(words, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, words);
}

/** Puts a text where others can paste it, and says so on the button. */
export async function copy(text, from) {
  from.dataset.words ??= from.textContent; // pressed twice, it says "Copied" already
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch {
    from.textContent = "Not allowed here";
  }
  setTimeout(() => { from.textContent = from.dataset.words; }, 1500);
}
