// Dialog with the dead letters of one queue: fetched when opened; actions need the token.

import { button, carefulButton, element } from "./elements.js";
import { count, span } from "./figures.js";
import { act, hasToken, letters } from "./server.js";

const FIRST = 10;
const MORE = 50;

const dialog = document.getElementById("letters");
const [title, tools, said, list] = [".bar h2", ".tools", ".said", ".list"].map((one) => dialog.querySelector(one));
let queue = "";
let limit = FIRST;
let isReading = false;

dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => list.replaceChildren());

/** Open the dialog for a queue. */
export function openLetters(name) {
  queue = name;
  limit = FIRST;
  title.textContent = `Dead letters of ${name}`;
  said.textContent = "";
  list.replaceChildren();
  tools.replaceChildren();
  if (!dialog.open) dialog.showModal();
  return read();
}

/** Reload the open dialog, for example after the token was entered. */
export function refreshLetters() {
  return dialog.open ? read() : null;
}

async function read() {
  if (isReading) return;
  isReading = true;
  list.setAttribute("aria-busy", "true");
  try {
    const asked = queue;
    const found = await letters(asked, limit);
    if (asked === queue && dialog.open) show(found);
  } catch (error) {
    list.replaceChildren(element("p", { class: "notice", data: { level: "bad" } }, `Not read: ${error.message}`));
  } finally {
    isReading = false;
    list.removeAttribute("aria-busy");
  }
}

function show(found) {
  const shown = found.letters.length;
  const isFull = shown >= limit;
  const head = [element("span", { class: "note" }, shown ? (isFull ? `The first ${count(shown)}` : `${count(shown)} in all`) : "")];
  if (isFull && limit < MORE) head.push(button(`Show ${MORE}`, () => { limit = MORE; return read(); }, "quiet"));
  if (hasToken() && shown) {
    head.push(
      carefulButton("Replay all", "Replay all?", () => run("replay", { all: true }), ""),
      carefulButton("Discard all", "Discard all for good?", () => run("discard", { all: true })),
    );
  }
  tools.replaceChildren(...head);
  const none = element("p", { class: "empty" }, "No dead letters.");
  list.replaceChildren(...(shown ? found.letters.map(messageElement) : [none]));
}

function messageElement(message) {
  const head = element("summary", {},
    element("span", { class: "reason" }, message.reason || "no reason"),
    element("span", { class: "task" }, message.task || "not a task"),
    element("span", { class: "age" }, message.age_seconds === null ? "" : `${span(message.age_seconds)} ago`),
    element("span", { class: "exception" }, message.exception),
  );
  const facts = [
    ["id", message.id], ["args", message.args], ["kwargs", message.kwargs], ["retries", String(message.retries)], ["node", message.node],
  ].filter(([, text]) => text);
  const table = element("dl", {},
    ...facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  const made = element("details", {}, head, table);
  if (message.traceback) made.append(element("pre", { tabIndex: 0 }, message.traceback));
  if (hasToken()) made.append(message.key === null ? nameless() : choices(message.key));
  return made;
}

function nameless() {
  return element("p", { class: "note" }, "This message has no usable id, so it can only be replayed or discarded together with all others.");
}

function choices(key) {
  return element("div", { class: "tools" },
    button("Replay", () => run("replay", { ids: [key] })),
    carefulButton("Discard", "Discard for good?", () => run("discard", { ids: [key] })),
  );
}

async function run(verb, which) {
  said.dataset.level = "quiet";
  said.textContent = "Working…";
  try {
    const done = await act(verb, { queue, ...which });
    const word = verb === "replay" ? "replayed" : "discarded";
    const failed = done.failed ? `, ${count(done.failed)} not` : "";
    said.dataset.level = done.problem ? "bad" : "good";
    said.textContent = `${count(done.done)} ${word}${failed}${done.problem ? `: ${done.problem}` : ""}`;
    await read();
  } catch (error) {
    said.dataset.level = "bad";
    said.textContent = `Not done: ${error.message}`;
  }
  document.dispatchEvent(new Event("acted"));
}
