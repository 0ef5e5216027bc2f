// Conversations and settings, in this browser's storage.

const CONVERSATIONS = "dsdnode.conversations";
const SETTINGS = "dsdnode.settings";
const MAX_CONVERSATIONS = 100;

/** The browser's; where it refuses, one that lasts as long as the page. */
function storage(kind) {
  try {
    return window[kind];
  } catch {
    const held = new Map();
    return { getItem: (name) => held.get(name) ?? null, setItem: (name, value) => held.set(name, value) };
  }
}

const local = storage("localStorage");
export const tab = storage("sessionStorage");

function read(name, otherwise) {
  try {
    return JSON.parse(local.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Newest first. */
export function conversations() {
  const found = read(CONVERSATIONS, []);
  return Array.isArray(found) ? found : [];
}

const id = () => crypto.randomUUID?.() ?? String(Date.now());

/** `at`: when it was kept last. */
export const begun = () => ({ id: id(), messages: [], at: 0 });

/** What another tab has made of it meanwhile stays beside it. What does not fit is left out, the oldest first: a browser
 * gives a page 5 MB or so. */
export function keep(conversation) {
  let all = conversations();
  if (all.some((one) => one.id === conversation.id && one.at !== conversation.at)) conversation.id = id();
  conversation.at = Date.now();
  all = all.filter((one) => one.id !== conversation.id);
  if (conversation.messages.length) all.unshift(conversation);
  all = all.slice(0, MAX_CONVERSATIONS);
  for (;;) {
    try {
      local.setItem(CONVERSATIONS, JSON.stringify(all));
      return;
    } catch {
      if (all.length < 2) return;
      all.pop();
    }
  }
}

export function forget(id) {
  const rest = id === undefined ? [] : conversations().filter((one) => one.id !== id);
  local.setItem(CONVERSATIONS, JSON.stringify(rest));
}

export const settings = {
  get: () => read(SETTINGS, {}),
  set: (values) => {
    try {
      local.setItem(SETTINGS, JSON.stringify(values));
    } catch { /* they hold as long as the page is open */ }
  },
};
