// The swarm as a picture and as a table: who has which layers, how they are reached, where replies flow, what is missing.

import { byId, el, svg } from "./dom.js";

const ROW = 44;
const BOX = 36;
const GAP = 12;
const NARROW = 560;
const CHAR = 6.6; // of the small type, about

const short = (id) => id.slice(0, 8);
const nameOf = (peer) => peer.name || short(peer.id);
const isThere = (peer) => peer.rtt_ms !== null;
const fit = (text, width) => {
  const most = Math.max(0, Math.floor((width - 10) / CHAR));
  return text.length > most ? (most > 1 ? `${text.slice(0, most - 1)}…` : "") : text;
};

export function drawSwarm(known, chosen) {
  const model = known.models.find((one) => one.id === chosen) ?? known.models[0];
  byId("summary").textContent = inWords(known, model);
  byId("newcomer").textContent = model?.newcomer ? newcomer(model.newcomer) : "";
  byId("map").replaceChildren(picture(known, model));
  table(known.peers);
}

function inWords(known, model) {
  const there = known.peers.filter(isThere).length;
  const peers = `${there} of ${known.peers.length + known.left_off} peers answer.`;
  if (!model) return `${peers} Nobody hosts a model yet.`;
  const drafters = model.drafters === 1 ? "1 peer drafts" : `${model.drafters} peers draft`;
  const whole = model.complete ? "all layers are there" : model.missing;
  return `${peers} ${model.name}: ${whole}; ${drafters}.`;
}

function newcomer(part) {
  const takes = [part.layers && `layers ${part.layers.join(":")}`, part.roles.includes("drafter") && "drafting"].filter(Boolean);
  if (!takes.length) return "";
  const words = `One more laptop like these would take ${takes.join(" and ")} (${part.why})`;
  if (!part.with_it) return `${words}.`;
  const speed = `about ${Math.round(part.with_it)} tokens a second`;
  if (!part.without) return `${words}: then replies could come, at ${speed} by what the peers say of themselves.`;
  if (part.with_it < 1.05 * part.without) return `${words}: no reply would be faster, but one more peer could leave.`;
  return `${words}: by what the peers say of themselves ${speed} in place of ${Math.round(part.without)}.`;
}

// --- where everything stands

function layout(known, model, width) {
  const narrow = width < NARROW;
  const peers = known.peers.filter((one) => !model || !one.layers || one.model_ids.includes(model.id));
  const drafters = peers.filter((one) => one.roles.includes("drafter"));
  const shards = peers.filter((one) => one.layers && model).sort((a, b) => a.layers[0] - b.layers[0] || a.layers[1] - b.layers[1]);
  const others = peers.filter((one) => !one.roles.length);
  const left = narrow ? 8 : 250;
  const top = narrow ? 64 + Math.max(1, drafters.length) * ROW : 48;
  const span = width - left - 12;
  const x = (layer) => left + (span * layer) / (model?.num_layers ?? 1);
  const places = new Map();
  const rows = [];
  for (const one of shards) {
    let row = rows.findIndex((end) => end <= one.layers[0]);
    if (row < 0) row = rows.push(0) - 1;
    rows[row] = one.layers[1];
    const from = x(one.layers[0]) + GAP / 2;
    places.set(`${one.id} shard`, { peer: one, x: from, y: top + row * ROW, w: Math.max(6, x(one.layers[1]) - GAP / 2 - from), h: BOX, words: `${one.layers.join(":")} ${nameOf(one)}` });
  }
  const numRows = Math.max(1, rows.length + (shards.length && model.holes.length ? 1 : 0)); // holes have one of their own
  const middle = narrow ? 32 : top + (Math.max(numRows, drafters.length) * ROW) / 2 - 4;
  drafters.forEach((one, index) => {
    const y = narrow ? 12 + index * ROW : middle - (drafters.length * ROW) / 2 + index * ROW;
    places.set(`${one.id} drafter`, { peer: one, x: 92, y, w: narrow ? width - 100 : 130, h: BOX, words: `drafts ${nameOf(one)}` });
  });
  const bottom = Math.max(top + numRows * ROW, ...[...places.values()].map((one) => one.y + ROW));
  return { narrow, width, left, top, x, places, numRows, others, bottom, you: { x: 34, y: middle }, height: bottom + (others.length ? 6 + Math.ceil(others.length / perRow(width)) * 20 : 4) };
}

const perRow = (width) => Math.max(1, Math.floor((width - 16) / 150));

function picture(known, model) {
  const width = Math.max(300, Math.min(1100, byId("map").clientWidth || 640));
  const plan = layout(known, model, width);
  const words = `Map. ${inWords(known, model)} The table below has every peer.`;
  const flows = known.replies.length ? known.replies : known.last ? [known.last] : [];
  const busy = new Set(known.replies.flatMap((flow) => [`${flow.drafter} drafter`, ...flow.stages.map((one) => `${one.id} shard`)]));
  const parts = [
    pattern(),
    ...(model ? axis(plan, model) : []),
    ...flows.map((flow) => path(plan, flow, known.replies.length > 0)),
    ...[...plan.places].map(([key, place]) => box(place, busy.has(key))),
    ...you(plan),
    ...outsiders(plan),
  ];
  return svg("svg", { width, height: plan.height, viewBox: `0 0 ${width} ${plan.height}`, role: "img", "aria-label": words }, ...parts);
}

function pattern() {
  const line = svg("path", { d: "M0 8 L8 0", class: "hatch" });
  return svg("defs", {}, svg("pattern", { id: "hatch", width: 8, height: 8, patternUnits: "userSpaceOnUse" }, line));
}

function axis(plan, model) {
  const step = Math.max(1, Math.ceil(model.num_layers / Math.max(2, Math.floor((plan.width - plan.left) / 44))));
  const marks = [];
  for (let layer = 0; layer <= model.num_layers; layer += step) {
    marks.push(svg("text", { x: plan.x(layer), y: plan.top - 8, class: layer ? "tick middle" : "tick" }, String(layer)));
  }
  const holes = model.holes.map(([start, end]) => {
    const x = plan.x(start) + GAP / 2;
    const w = plan.x(end) - GAP / 2 - x;
    const y = plan.top + (plan.numRows - 1) * ROW;
    const hole = svg("rect", { x, y, width: w, height: BOX, rx: 6, class: "hole" });
    return svg("g", {}, svg("title", {}, `layers ${start}:${end}: nobody who answers has them`), hole,
      svg("text", { x: x + 6, y: y + 22, class: "label hole-words" }, fit(`${start}:${end} nobody`, w)));
  });
  return [svg("text", { x: plan.left, y: plan.top - 26, class: "tick" }, fit(`layers of ${model.name}`, plan.width - plan.left)), ...marks, ...holes];
}

function box({ peer, x, y, w, h, words }, busy) {
  const there = isThere(peer);
  const how = there ? `${peer.way || "linked"} ${peer.rtt_ms.toFixed(1)} ms` : peer.seen_s === null ? "never answered" : `silent ${Math.round(peer.seen_s)} s`;
  const kind = `box ${there ? peer.way || "direct" : "gone"}${peer.here ? " here" : ""}${busy && there ? " busy" : ""}`;
  return svg("g", { class: kind, "data-peer": peer.id }, svg("title", {}, `${nameOf(peer)} (${peer.id}): ${words}, ${how}`),
    svg("rect", { x, y, width: w, height: h, rx: 6 }),
    svg("text", { x: x + 6, y: y + 15, class: "label" }, fit(words, w)),
    svg("text", { x: x + 6, y: y + 29, class: "small" }, fit(how, w)));
}

function you(plan) {
  const { x, y } = plan.you;
  return [svg("circle", { cx: x, cy: y, r: 22, class: "you" }), svg("text", { x, y: y + 4, class: "label middle" }, "you")];
}

/** Who has no part in a model, but holds records or relays. */
function outsiders(plan) {
  const most = perRow(plan.width);
  return plan.others.map((one, index) => {
    const x = 8 + (index % most) * 150;
    const y = plan.bottom + 14 + Math.floor(index / most) * 20;
    const kind = isThere(one) ? one.way || "direct" : "gone";
    return svg("g", { class: `box ${kind}`, "data-peer": one.id }, svg("title", {}, `${nameOf(one)} (${one.id}): no role`),
      svg("circle", { cx: x + 5, cy: y - 4, r: 5 }), svg("text", { x: x + 15, y, class: "small" }, fit(nameOf(one), 130)));
  });
}

/** From us to the drafter, from stage to stage, and from the judge back to the drafter. */
function path(plan, flow, live) {
  const drafter = plan.places.get(`${flow.drafter} drafter`);
  const stages = flow.stages.map((one) => plan.places.get(`${one.id} shard`)).filter(Boolean);
  const group = svg("g", { class: live ? "flow live" : "flow", "data-route": flow.stages.map((one) => one.id).join(" ") });
  if (!drafter) return group;
  const middle = (one) => one.y + one.h / 2;
  const draw = (d) => group.append(svg("path", { d }));
  const along = (ax, ay, bx, by) => draw(`M${ax} ${ay} C${(ax + bx) / 2} ${ay} ${(ax + bx) / 2} ${by} ${bx} ${by}`);
  const down = (ax, ay, bx, by) => draw(`M${ax} ${ay} C${ax} ${(ay + by) / 2} ${bx} ${(ay + by) / 2} ${bx} ${by}`);
  along(plan.you.x + 22, plan.you.y, drafter.x, middle(drafter));
  if (!stages.length) return group;
  const first = stages[0];
  const last = stages.at(-1);
  const under = drafter.y + drafter.h;
  if (plan.narrow) down(drafter.x + 24, under, first.x + first.w / 2, first.y);
  else along(drafter.x + drafter.w, middle(drafter), first.x, middle(first));
  for (let at = 1; at < stages.length; at++) along(stages[at - 1].x + stages[at - 1].w, middle(stages[at - 1]), stages[at].x, middle(stages[at]));
  const back = [last.x + last.w / 2, drafter.x + drafter.w - 24];
  if (plan.narrow) down(back[1], under, back[0], last.y);
  else draw(`M${back[0]} ${last.y + last.h} C${back[0]} ${plan.bottom + 8} ${back[1]} ${plan.bottom + 8} ${back[1]} ${under}`);
  return group;
}

// --- the same in words

const COLUMNS = ["Peer", "Roles", "Layers", "Model", "Reached", "Round trip", "A block", "A token", "Busy", "Seen"];

function table(peers) {
  const ms = (value) => (value ? `${value < 1 ? value.toPrecision(1) : value.toFixed(1)} ms` : "");
  const rows = peers.map((one) => {
    const who = one.name ? `${one.name} (${short(one.id)})` : short(one.id);
    const seen = isThere(one) ? "now" : one.seen_s === null ? "never" : `${Math.round(one.seen_s)} s ago`;
    const cells = [one.roles.join(", ") || "none", one.layers?.join(":") ?? "", one.model, isThere(one) ? one.way : "no answer", ms(one.rtt_ms), ms(one.fixed_ms), ms(one.slope_ms), one.queue >= 0.05 ? one.queue.toFixed(1) : "", seen];
    return el("tr", { class: isThere(one) ? "" : "gone" }, el("th", { scope: "row" }, who + (one.here ? ", this machine" : "")), ...cells.map((cell) => el("td", {}, cell)));
  });
  byId("peers").replaceChildren(el("caption", { class: "hidden" }, "Peers of the swarm"), el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows));
}
