// Asks this page's server: for the figures again and again, for letters and actions when a person wants them.

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

/** Return the JSON of an answer; a refusal is an Error with the server's words. */
async function read(path, options, seconds) {
  const place = new URL(path, location.origin + location.pathname); // without a user and password that it was opened with
  const answer = await fetch(place, { cache: "no-store", signal: AbortSignal.timeout(seconds * 1000), ...options });
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

export function act(verb, wish) {
  const headers = { "Content-Type": "application/json", ...withToken() };
  return read(`actions/${verb}`, { method: "POST", headers, body: JSON.stringify(wish) }, ACTION_SECONDS);
}

function withToken() {
  return token ? { "X-Actions-Token": token } : {};
}

/**
 * Ask for the figures every few seconds, and every minute, for the title, while the page is not seen. After an error the
 * pauses double, up to a minute.
 * `onFigures(figures)`; `onError(words, secondsToNext)`. Returns what asks at once.
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
