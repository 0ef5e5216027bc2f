// Markdown as models write it, into elements. The text is a stranger's: it is never taken for markup, links lead to the
// web alone and say whereto, images are not fetched, and the time it takes grows with its length alone.

import { button, copy, el } from "./dom.js";

const MAX_DEPTH = 6;
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]{0,30})/;
const HEADING = /^(#{1,6})\s(.*)$/s;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])\s(.*)$/s;
const QUOTE = /^ {0,3}> ?/;
const STARTS = [FENCE, HEADING, RULE, ITEM, QUOTE];

/** [[kind, lines]], of which each is an element. */
export function blocks(text) {
  const lines = text.split("\n");
  const found = [];
  let at = 0;
  const take = (kind, more) => {
    const first = at++;
    while (at < lines.length && more(lines[at])) at++;
    found.push([kind, lines.slice(first, at)]);
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) at++;
    else if (fence) {
      let open = true;
      take("code", (next) => {
        const was = open;
        if (next.trim().startsWith(fence[1]) && !next.trim().slice(fence[1].length).trim()) open = false;
        return was;
      });
    } else if (HEADING.test(line)) take("heading", () => false);
    else if (RULE.test(line)) take("rule", () => false);
    else if (QUOTE.test(line)) take("quote", (next) => QUOTE.test(next));
    else if (ITEM.test(line)) take("list", (next) => next.trim() && (ITEM.test(next) || /^\s/.test(next)));
    else if (line.includes("|") && isTableRule(lines[at + 1] ?? "")) take("table", (next) => next.includes("|"));
    else take("text", (next) => next.trim() && !STARTS.some((start) => start.test(next)));
  }
  return found;
}

export function block([kind, lines], depth = 0) {
  if (kind === "code") return code(lines);
  if (kind === "rule") return el("hr");
  if (kind === "heading") {
    const [, marks, words] = HEADING.exec(lines[0]);
    return el(`h${Math.min(6, marks.length + 2)}`, {}, inline(words.trim()));
  }
  if (depth >= MAX_DEPTH || kind === "text") return el("p", {}, inline(lines.join("\n")));
  if (kind === "quote") return el("blockquote", {}, within(lines.map((line) => line.replace(QUOTE, "")), depth));
  if (kind === "table") return table(lines);
  return list(lines, depth);
}

const within = (lines, depth) => blocks(lines.join("\n")).map((one) => block(one, depth + 1));

function code(lines) {
  const [, fence, language] = FENCE.exec(lines[0]);
  const closed = lines.length > 1 && lines.at(-1).trim() === fence.trim();
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const copier = button("Copy", () => copy(text, copier));
  const caption = el("figcaption", {}, el("span", {}, language || "code"), copier);
  return el("figure", { class: "code" }, caption, el("pre", { tabindex: "0" }, el("code", {}, text)));
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) items.push([item[3].trimStart()]);
    else items.at(-1).push(line.replace(/^ {1,4}|^\t/, ""));
  }
  const made = items.map(([first, ...rest]) => el("li", {}, inline(first), within(rest, depth)));
  return el(ordered ? "ol" : "ul", ordered ? { start: parseInt(mark, 10) } : {}, made);
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
const isTableRule = (line) => line.includes("|") && cells(line).every((cell) => /^:?-+:?$/.test(cell));

function table(lines) {
  const row = (line, kind) => el("tr", {}, cells(line).map((cell) => el(kind, {}, inline(cell))));
  const [head, , ...rest] = lines;
  const made = el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, rest.map((line) => row(line, "td"))));
  return el("div", { class: "scroll" }, made);
}

// --- within a line

const MARKS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "s" };
const TOKEN = /\\[!-/:-@[-`{-~]|`+|\*\*|__|~~|[*_]|\[|https?:\/\/[^\s<>"'`)\]]{1,2000}|\n/g;

function inline(text, depth = 0) {
  const out = [];
  const lacking = new Set(); // closers that were looked for in vain: nothing is searched twice
  const pattern = new RegExp(TOKEN);
  let done = 0;
  const close = (mark, from) => {
    if (lacking.has(mark)) return -1;
    const at = text.indexOf(mark, from);
    if (at < 0) lacking.add(mark);
    return at;
  };
  const put = (from, to, made) => {
    if (from > done) out.push(text.slice(done, from));
    out.push(made);
    done = pattern.lastIndex = to;
  };
  for (let found; (found = pattern.exec(text)); ) {
    const [mark] = found;
    const at = found.index;
    const after = at + mark.length;
    if (mark[0] === "\\") put(at, after, mark[1]);
    else if (mark === "\n") put(at, after, el("br"));
    else if (mark[0] === "`") {
      const end = close(mark, after);
      if (end > 0) put(at, end + mark.length, el("code", {}, text.slice(after, end)));
    } else if (mark === "[") {
      const link = named(text, at);
      if (link) put(at, link.end, anchor(link.href, link.words));
    } else if (mark.startsWith("http")) {
      let length = mark.length;
      while (".,;:!?".includes(mark[length - 1])) length--;
      const href = mark.slice(0, length);
      put(at, at + href.length, anchor(href, href));
    } else if (depth < MAX_DEPTH && opens(text, at, after, mark)) {
      const end = close(mark, after + 1);
      if (end > 0 && text[end - 1].trim()) {
        put(at, end + mark.length, el(MARKS[mark], {}, inline(text.slice(after, end), depth + 1)));
      }
    }
  }
  out.push(text.slice(done));
  return out;
}

/** `_` within a word is part of it, and a mark before a blank is no mark. */
function opens(text, at, after, mark) {
  return Boolean(text[after]?.trim()) && !(mark[0] === "_" && /\w/.test(text[at - 1] ?? ""));
}

const LINK = /\[([^\][\n]{1,500})\]\((https?:\/\/[^\s()<>]{1,2000})\)/y;

function named(text, at) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  return found && { words: found[1], href: found[2], end: LINK.lastIndex };
}

function anchor(href, words) {
  return el("a", { href, title: href, rel: "noopener noreferrer nofollow", target: "_blank" }, words);
}
