// Conversations and settings, in this browser's storage.

const CONVERSATIONS = "dsdnode.conversations";
const SETTINGS = "dsdnode.settings";
const MAX_CONVERSATIONS = 100;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Newest first. */
export function conversations() {
  const found = read(CONVERSATIONS, []);
  return Array.isArray(found) ? found : [];
}

/** What does not fit is left out, the oldest first: a browser gives a page 5 MB or so. */
export function keep(conversation) {
  let all = conversations().filter((one) => one.id !== conversation.id);
  if (conversation.messages.length) all.unshift(conversation);
  all = all.slice(0, MAX_CONVERSATIONS);
  for (;;) {
    try {
      localStorage.setItem(CONVERSATIONS, JSON.stringify(all));
      return;
    } catch {
      if (all.length < 2) return;
      all.pop();
    }
  }
}

export function forget(id) {
  const rest = id === undefined ? [] : conversations().filter((one) => one.id !== id);
  localStorage.setItem(CONVERSATIONS, JSON.stringify(rest));
}

export const settings = {
  get: () => read(SETTINGS, {}),
  set: (values) => {
    try {
      localStorage.setItem(SETTINGS, JSON.stringify(values));
    } catch { /* they hold as long as the page is open */ }
  },
};
