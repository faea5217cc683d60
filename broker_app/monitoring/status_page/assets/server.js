// Requests to this page's server: figures by polling, dead letters and actions on demand.

const EVERY_SECONDS = 5;
const UNSEEN_SECONDS = 60;
const LONGEST_PAUSE_SECONDS = 60;
const PATIENCE_SECONDS = 15;
const ACTION_SECONDS = 120;

let token = "";

export function keepToken(text) {
  token = text;
}

export function hasToken() {
  return token !== "";
}

/** Return the JSON of a response; throw an Error with the server's message if the request was refused. */
async function read(path, options, seconds) {
  const url = new URL(path, location.origin + location.pathname); // without user and password from the address bar
  const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(seconds * 1000), ...options });
  let content = null;
  try {
    content = await answer.json();
  } catch {
    throw new Error(`the server answered ${answer.status} ${answer.statusText}`);
  }
  if (!answer.ok) throw new Error(content.problem || `the server answered ${answer.status}`);
  return content;
}

export function letters(queue, limit) {
  const query = new URLSearchParams({ queue, limit: String(limit) });
  return read(`dead-letters.json?${query}`, { headers: withToken() }, ACTION_SECONDS);
}

export function act(verb, body) {
  const headers = { "Content-Type": "application/json", ...withToken() };
  return read(`actions/${verb}`, { method: "POST", headers, body: JSON.stringify(body) }, ACTION_SECONDS);
}

function withToken() {
  return token ? { "X-Actions-Token": token } : {};
}

/**
 * Poll the figures every few seconds, or every minute, for the title, while the page is hidden. After errors the pause
 * doubles, up to a minute.
 * Callbacks: `onFigures(figures)`, `onError(words, secondsToNext)`. Returns a function that polls at once.
 */
export function follow(onFigures, onError) {
  let timer = 0;
  let failures = 0;
  let isAsking = false;

  async function ask() {
    clearTimeout(timer);
    if (isAsking) return;
    isAsking = true;
    let pause = EVERY_SECONDS;
    try {
      const figures = await read("status.json", {}, PATIENCE_SECONDS);
      failures = 0;
      onFigures(figures);
    } catch (error) {
      failures += 1;
      pause = Math.min(LONGEST_PAUSE_SECONDS, EVERY_SECONDS * 2 ** (failures - 1));
      onError(words(error), pause);
    }
    isAsking = false;
    timer = setTimeout(ask, (document.hidden ? UNSEEN_SECONDS : pause) * 1000);
  }

  document.addEventListener("visibilitychange", () => document.hidden || ask());
  ask();
  return ask;
}

function words(error) {
  if (error.name === "TimeoutError") return `no answer within ${PATIENCE_SECONDS} s`;
  return error instanceof TypeError ? "it cannot be reached" : error.message;
}
