// Talks to the gateway that this page came from, and to nobody else.

import { tab } from "./store.js";

const KEY = "dsdnode.key";

/** The key that this tab was given; it is not kept longer than the tab. */
export const key = {
  get: () => tab.getItem(KEY) || "",
  set: (value) => tab.setItem(KEY, value),
};

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "The gateway does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  let words = answer.statusText;
  try {
    words = (await answer.json()).error.message;
  } catch { /* not JSON: the status must do */ }
  throw new Failed(answer.status, words);
}

export async function swarm() {
  return (await ask("/swarm")).json();
}

/** A connection that was cut ends a reply as one that was closed; browsers say "network error". */
function broken(error) {
  if (error.name === "AbortError") throw error;
  return { done: true };
}

/** The events of a streamed chat, decoded; throws Failed, also for an error in mid-stream. */
export async function* chat(body, signal) {
  const answer = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) throw new Failed(0, "The reply broke off.");
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Failed(0, event.error.message);
      yield event;
    }
  }
}
