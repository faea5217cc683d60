// The dead letters of one queue: looked at when a person opens them, and acted on when the token is known.

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

/** Open the dead letters of a queue. */
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

/** Show them anew, if they are open: the token has come. */
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
  const none = element("p", { class: "empty" }, "No dead letters: nothing was given up, or somebody has seen to it.");
  list.replaceChildren(...(shown ? found.letters.map(letter) : [none]));
}

function letter(one) {
  const head = element("summary", {},
    element("span", { class: "reason" }, one.reason || "no reason"),
    element("span", { class: "task" }, one.task || "not a task"),
    element("span", { class: "age" }, one.age_seconds === null ? "" : `${span(one.age_seconds)} ago`),
    element("span", { class: "exception" }, one.exception),
  );
  const facts = [
    ["id", one.id], ["args", one.args], ["kwargs", one.kwargs], ["retries", String(one.retries)], ["node", one.node],
  ].filter(([, text]) => text);
  const table = element("dl", {},
    ...facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  const made = element("details", {}, head, table);
  if (one.traceback) made.append(element("pre", { tabIndex: 0 }, one.traceback));
  if (hasToken()) made.append(one.key === null ? nameless() : choices(one.key));
  return made;
}

function nameless() {
  return element("p", { class: "note" }, "It has no id to ask for it by; all of them can be replayed or discarded.");
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
