// One message of a conversation, as it is shown: its text, its figures, and what can be done with it.

import { button, copy, el, put } from "./dom.js";
import { block, blocks } from "./markdown.js";

const WHO = { user: "You", assistant: "Swarm" };

export class MessageView {
  /** `message`: {role, content, runs, stats, note}; `does`: what its buttons call. */
  constructor(message, does, tint) {
    this.message = message;
    this.does = does;
    this.shown = [];
    this.body = el("div", { class: "body" });
    this.foot = el("p", { class: "stats" });
    this.actions = el("div", { class: "actions" });
    this.element = el("li", { class: `message ${message.role}` }, el("h3", {}, WHO[message.role]), this.body, this.foot, this.actions);
    this.update(tint);
    this.settle();
  }

  /** The text as far as it has come. */
  update(tint) {
    const { role, content, runs } = this.message;
    this.element.classList.toggle("plain", role === "user" || tint);
    if (role === "user") this.body.textContent = content;
    else if (tint) {
      this.body.replaceChildren();
      put(this.body, tinted(content, runs ?? []));
    } else this.draw(content);
    if (role === "user" || tint) this.shown = [];
  }

  /** Only what is new is made anew: what is before it may have the focus. */
  draw(text) {
    const wanted = blocks(text);
    const sources = wanted.map(([kind, lines]) => `${kind}\n${lines.join("\n")}`);
    let same = 0;
    while (same < this.shown.length && this.shown[same] === sources[same]) same++;
    if (!this.shown.length) this.body.replaceChildren();
    while (this.body.children.length > same) this.body.lastElementChild.remove();
    put(this.body, wanted.slice(same).map((one) => block(one)));
    this.shown = sources;
  }

  /** It is over: figures, and buttons. */
  settle() {
    const { role, stats, note } = this.message;
    this.foot.textContent = [stats && inWords(stats), note].filter(Boolean).join(" · ");
    this.foot.hidden = !this.foot.textContent;
    this.foot.classList.toggle("note", Boolean(note));
    const copier = button("Copy", () => copy(this.message.content, copier));
    const last = role === "user" ? button("Edit", () => this.edit()) : button("Retry", () => this.does.retry(this.message));
    this.actions.replaceChildren(copier, last);
  }

  busy(is) {
    this.element.classList.toggle("busy", is);
    this.actions.hidden = is;
  }

  edit() {
    const field = el("textarea", { "aria-label": "Your message", rows: Math.min(12, this.message.content.split("\n").length + 1) });
    field.value = this.message.content;
    const leave = () => {
      this.update(false);
      this.settle();
      this.actions.lastElementChild.focus();
    };
    const send = () => field.value.trim() && this.does.edit(this.message, field.value.trim());
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.body.replaceChildren(field);
    this.actions.replaceChildren(button("Send", send, { class: "main" }), button("Cancel", leave));
    field.focus();
  }
}

/** `runs`: [number of characters, whether they were drafted and accepted]. */
function tinted(text, runs) {
  const found = [];
  let at = 0;
  for (const [length, accepted] of runs) {
    const part = text.slice(at, (at += length));
    found.push(accepted ? el("mark", {}, part) : part);
  }
  return [...found, text.slice(at)];
}

function inWords(stats) {
  const speed = stats.tokens_per_second;
  const plain = stats.plain_tokens_per_second;
  return [
    `${stats.tokens} tok`,
    speed && `${speed.toFixed(1)} tok/s`,
    stats.first_s !== undefined && `first token ${stats.first_s.toFixed(2)} s`,
    stats.drafted && `accepted ${Math.round(100 * (stats.acceptance_rate ?? 0))} %`,
    speed && plain && `${(speed / plain).toFixed(1)}x plain (${plain.toFixed(1)})`,
    stats.recoveries && `went on after ${stats.recoveries} loss${stats.recoveries > 1 ? "es" : ""}`,
    stats.acceptance && stats.acceptance !== "exact" && `${stats.acceptance} acceptance`,
  ].filter(Boolean).join(" · ");
}
