// What the page makes of texts, each an element tree as text; the elements are played.

import { readFileSync } from "node:fs";

const play = (name) => {
  const made = { name, children: [], addEventListener: () => {}, setAttribute: () => {} };
  made.append = (child) => made.children.push(child);
  return made;
};
globalThis.document = { createElement: play };
const { block, blocks } = await import(process.argv[2]);

const inWords = (one) => (typeof one === "string" ? one : `<${one.name}>${one.children.map(inWords).join("")}</>`);
const texts = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => blocks(text).map((one) => inWords(block(one))).join(""))));
