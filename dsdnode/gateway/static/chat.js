// The conversation: what was said, what is asked, and the reply as it comes.

import * as api from "./api.js";
import { button, byId, el } from "./dom.js";
import { MessageView } from "./message.js";
import * as store from "./store.js";

const DRAW_MS = 80; // a reply is drawn no more often
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "draft_max"];
const ENDS = { length: "cut off: it is as long as it may be" };

export class Chat {
  /** `onflow(running)` hears when a reply begins and ends; `onrefused(words)` when a key is wanted. */
  constructor({ onflow, onrefused }) {
    this.onflow = onflow;
    this.onrefused = onrefused;
    this.views = [];
    this.running = null;
    this.open(store.begun());
    this.field = byId("prompt");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("input", () => this.grow());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.running && !document.querySelector("dialog[open]")) this.stop();
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("new").addEventListener("click", () => {
      this.open(store.begun());
      this.field.focus();
    });
  }

  get tint() {
    return Boolean(store.settings.get().tint);
  }

  grow() {
    this.field.rows = Math.min(8, this.field.value.split("\n").length);
  }

  open(conversation) {
    this.stop();
    this.conversation = conversation;
    this.redraw();
  }

  redraw() {
    this.views = this.conversation.messages.map((one) => this.view(one));
    byId("log").replaceChildren(...this.views.map((one) => one.element));
    byId("empty").hidden = this.views.length > 0;
    toEnd();
  }

  view(message) {
    return new MessageView(message, { retry: (one) => this.retry(one), edit: (one, text) => this.edit(one, text) }, this.tint);
  }

  add(message) {
    this.conversation.messages.push(message);
    const view = this.view(message);
    this.views.push(view);
    byId("log").append(view.element);
    byId("empty").hidden = true;
    toEnd();
    return view;
  }

  /** Drops a message and what follows it. */
  cut(message) {
    this.stop();
    const { messages } = this.conversation;
    messages.length = messages.indexOf(message);
    while (this.views.length > messages.length) this.views.pop().element.remove();
  }

  send() {
    const text = this.field.value.trim();
    if (!text || this.running) return;
    this.field.value = "";
    this.grow();
    this.ask(text);
  }

  ask(text) {
    this.add({ role: "user", content: text });
    return this.reply();
  }

  edit(message, text) {
    this.cut(message);
    this.field.focus();
    return this.ask(text);
  }

  retry(message) {
    this.cut(message);
    this.field.focus();
    return this.reply();
  }

  stop() {
    this.running?.abort();
  }

  body() {
    const values = store.settings.get();
    const system = values.system ? [{ role: "system", content: values.system }] : [];
    const said = this.conversation.messages.map(({ role, content }) => ({ role, content }));
    const body = {
      messages: [...system, ...said],
      model: byId("model").value || "default",
      stream: true,
      stream_options: { include_usage: true, include_speculation: true },
    };
    for (const name of NUMBERS) if (Number.isFinite(values[name])) body[name] = values[name];
    return body;
  }

  async reply() {
    const conversation = this.conversation;
    const body = this.body();
    const message = { role: "assistant", content: "", runs: [] };
    const view = this.add(message);
    const control = new AbortController();
    this.running = control;
    this.show(view, true);
    const began = performance.now();
    let timer = 0;
    try {
      for await (const event of api.chat(body, control.signal)) {
        take(message, event, began);
        timer ||= setTimeout(() => {
          timer = 0;
          this.draw(view, conversation);
        }, DRAW_MS);
      }
    } catch (error) {
      message.note = error.name === "AbortError" ? "stopped" : error.message;
      if (error.status === 401) this.onrefused(error.message);
    }
    clearTimeout(timer);
    const atEnd = isAtEnd(); // figures and buttons come below
    if (this.running === control) this.running = null;
    if (conversation.messages.includes(message)) this.over(conversation, message, view);
    if (!this.running) this.show(view, false);
    if (atEnd && conversation === this.conversation) toEnd();
  }

  over(conversation, message, view) {
    this.draw(view, conversation);
    view.settle();
    const first = conversation.messages.find((one) => one.role === "user");
    conversation.title = first?.content.slice(0, 80) ?? "";
    store.keep(conversation);
    byId("announce").textContent = message.note ? `Reply ${message.note}` : `Reply: ${message.content.slice(0, 1000)}`;
  }

  draw(view, conversation) {
    const atEnd = isAtEnd(); // before: what is drawn may be longer than the window
    view.update(this.tint);
    if (atEnd && conversation === this.conversation) toEnd();
  }

  show(view, running) {
    view.busy(running);
    byId("send").hidden = running;
    byId("stop").hidden = !running;
    if (running) byId("announce").textContent = "A reply is on its way.";
    this.onflow(running);
  }
}

/** Whoever reads further up is left there. */
function isAtEnd() {
  const log = byId("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 120;
}

function toEnd() {
  byId("log").scrollTop = byId("log").scrollHeight;
}

/** One event of the stream into the message. */
function take(message, event, began) {
  const choice = event.choices?.[0];
  const text = choice?.delta?.content ?? "";
  const drafted = event.speculation;
  message.stats ??= {};
  if (text) {
    if (message.stats.first_s === undefined) message.stats.first_s = (performance.now() - began) / 1000;
    message.content += text;
    const accepted = drafted?.accepted > 0;
    const last = message.runs.at(-1);
    if (last && last[1] === accepted) last[0] += text.length;
    else message.runs.push([text.length, accepted]);
  }
  message.stats.tokens = (message.stats.tokens ?? 0) + (drafted?.tokens ?? 0);
  if (ENDS[choice?.finish_reason]) message.note = ENDS[choice.finish_reason];
  if (event.usage) {
    const { speculation } = event.usage;
    message.stats = { ...message.stats, ...speculation, tokens: event.usage.completion_tokens };
  }
}

/** The list of what was said before, each of which can be opened again. */
export function listHistory(chat, dialog) {
  const items = store.conversations().map((one) => {
    const when = new Date(one.at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const opener = button(one.title || "untitled", () => {
      chat.open(one);
      dialog.close();
      byId("prompt").focus();
    }, { class: "title" });
    const remover = button("Forget", () => {
      store.forget(one.id);
      listHistory(chat, dialog);
    }, { "aria-label": `Forget ${one.title}` });
    return el("li", {}, opener, el("span", { class: "quiet" }, when), remover);
  });
  byId("conversations").replaceChildren(...(items.length ? items : [el("li", { class: "quiet" }, "Nothing yet.")]));
}
