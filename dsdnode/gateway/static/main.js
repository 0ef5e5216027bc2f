// Puts the parts of the page together.

import * as api from "./api.js";
import { Chat, listHistory } from "./chat.js";
import { byId, el } from "./dom.js";
import { drawSwarm } from "./map.js";
import { drawNode } from "./node.js";
import * as store from "./store.js";

const QUIET_MS = 4000;
const BUSY_MS = 1000;
const VIEWS = ["chat", "swarm", "node"];

let known = null;
let timer = 0;

const chat = new Chat({ onflow: () => look(), onrefused: wantKey });

// --- views

function show() {
  const view = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat";
  document.body.dataset.view = view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  draw();
}
addEventListener("hashchange", show);
addEventListener("resize", () => draw());

// --- the swarm, as long as somebody looks

async function look() {
  clearTimeout(timer);
  const number = (look.number = (look.number ?? 0) + 1);
  if (document.visibilityState === "visible") {
    try {
      known = await api.swarm();
      byId("state").textContent = stateOf(known);
    } catch (error) {
      byId("state").textContent = error.message;
      if (error.status === 401) wantKey(error.message, true);
    }
    draw();
  }
  if (number === look.number) timer = setTimeout(look, chat.running ? BUSY_MS : QUIET_MS);
}
document.addEventListener("visibilitychange", look);

function stateOf({ models, replies }) {
  const waits = replies.find((one) => one.waits);
  if (waits) return `A reply stands still: ${waits.waits}`;
  const flowing = replies.length ? `${replies.length} repl${replies.length > 1 ? "ies" : "y"} on the way` : "";
  const whole = models.some((one) => one.complete && one.drafters) ? "ready" : "no model can be asked yet";
  return flowing || whole;
}

function draw() {
  if (!known) return;
  const models = known.models.map((one) => [one.name, one.complete ? one.name : `${one.name} (not whole)`]);
  const chosen = byId("model").value; // it may come back, and no other one was meant
  if (chosen && !known.models.some((one) => one.name === chosen)) models.push([chosen, `${chosen} (gone)`]);
  options(byId("model"), models, ["", "any"]);
  options(byId("map-model"), known.models.map((one) => [one.id, one.name]));
  byId("map-model-label").hidden = known.models.length < 2;
  if (byId("swarm").clientWidth) drawSwarm(known, byId("map-model").value);
  drawNode(known.node);
}

/** Only when they are others: a list that is open stays open. */
function options(select, wanted, ...before) {
  const all = [...before, ...new Map(wanted)];
  const told = JSON.stringify(all);
  if (select.dataset.told === told) return;
  const value = select.value;
  select.replaceChildren(...all.map(([id, name]) => el("option", { value: id }, name)));
  if (all.some(([id]) => id === value)) select.value = value;
  select.dataset.told = told;
}
byId("map-model").addEventListener("change", draw);

// --- settings

const form = byId("settings-form");

function fill() {
  const values = store.settings.get();
  for (const field of form.querySelectorAll("[name]")) {
    if (field.type === "checkbox") field.checked = Boolean(values[field.name]);
    else field.value = values[field.name] ?? "";
  }
  byId("key").value = api.key.get();
}

function save() {
  const values = {};
  for (const field of form.querySelectorAll("[name]")) {
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (field.type === "number") values[field.name] = field.value && field.validity.valid ? Number(field.value) : undefined;
    else values[field.name] = field.value;
  }
  const redraw = Boolean(values.tint) !== chat.tint;
  store.settings.set(values);
  if (redraw && !chat.running) chat.redraw();
}
form.addEventListener("input", save);
byId("settings").addEventListener("close", () => {
  api.key.set(byId("key").value.trim());
  byId("key-note").hidden = true;
  look();
});
byId("open-settings").addEventListener("click", () => {
  fill();
  byId("settings").showModal();
});

function wantKey(words, quietly = false) {
  if (byId("settings").open || (quietly && wantKey.told)) return;
  wantKey.told = true;
  fill();
  byId("key-note").textContent = words;
  byId("key-note").hidden = false;
  byId("settings").showModal();
  byId("key").focus();
}

// --- history

byId("open-history").addEventListener("click", () => {
  listHistory(chat, byId("history"));
  byId("history").showModal();
});
byId("forget").addEventListener("click", () => {
  store.forget();
  listHistory(chat, byId("history"));
});

show();
look();
byId("prompt").focus();
