// The node on this machine, where the gateway rides on one.

import { byId, el } from "./dom.js";

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(num) {
  let unit = 0;
  for (; num >= 1000 && unit < UNITS.length - 1; unit++) num /= 1000;
  return `${unit ? num.toFixed(1) : num} ${UNITS[unit]}`;
}

function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** What this machine gave to others, of a day or more. */
function gave(one) {
  const replies = `${one.replies} ${one.replies === 1 ? "reply" : "replies"}`;
  const tokens = `${one.tokens} ${one.tokens === 1 ? "token" : "tokens"}`;
  return `${tokens} of ${replies}, ${bytes(one.sent_bytes)} up, ${bytes(one.received_bytes)} down`;
}

/** `node`: as /swarm has it; null: there is none beside the gateway. */
export function drawNode(node) {
  byId("to-node").hidden = !node;
  if (!node) {
    byId("own").replaceChildren(el("p", {}, "No node runs with this gateway: it only asks. `dsdnode start` takes part."));
    return;
  }
  const facts = {
    Name: node.name,
    "Peer id": node.id,
    Roles: node.roles.join(", "),
    Layers: node.layers?.join(":") ?? "",
    Running: `for ${duration(node.uptime_s)}`,
    Reached: node.reach,
    "New replies": node.resting || "taken",
    "Gave today": node.given ? gave(node.given.today) : "",
    "In 30 days": node.given ? gave(node.given.month) : "",
    "In all": node.given ? gave(node.given.all) : "",
    "Known peers": String(node.known_peers),
    "Replies in progress": `${node.sessions.drafter} drafted here, ${node.sessions.shard} with a part computed here`,
    Sent: `${node.sent_messages} messages, ${bytes(node.sent_bytes)}`,
    Protection: node.protection ? [...node.protection.holds, ...node.protection.left_out.map((one) => `not: ${one}`)].join("; ") : "",
  };
  const list = Object.entries(facts).filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  byId("own").replaceChildren(el("dl", {}, ...list.flat()), ...(node.engines.length ? [engines(node.engines)] : []));
}

function engines(all) {
  const head = ["Engine of", "Model", "Context", "A block", "A token", "Busy", ""];
  const rows = all.map((one) => [one.role, one.model, `${one.context_tokens} tokens`, `${one.fixed_ms.toFixed(1)} ms`, `${one.slope_ms.toFixed(1)} ms`, one.queue.toFixed(1), one.trouble]);
  return el("div", { class: "scroll" }, el("table", {}, el("caption", {}, "Engines"), el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell)))))));
}
