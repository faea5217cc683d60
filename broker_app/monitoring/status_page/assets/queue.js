// Row of one queue: created once and updated in place, so that focus and hover survive.

import { drawFinished, drawMeter, drawWaits } from "./charts.js";
import { button, carefulButton, element, write } from "./elements.js";
import { UNKNOWN, count, perMinute, span, writeSpan } from "./figures.js";
import { act, hasToken } from "./server.js";

/** Position of the objective on the wait meter, which ends at twice the objective. */
const OBJECTIVE_MARK = 0.5;

/** Return a row: its `element`, and `show(queue, figures)`. `onDead(name)` opens the dead letters. */
export function makeRow(name, onDead) {
  const cell = (kind, label, ...children) =>
    element("div", { class: `cell ${kind}` }, element("span", { class: "label" }, label), ...children);
  const part = (kind) => element("span", { class: kind });
  const parts = {
    word: part("word"),
    buttons: part("buttons"),
    wait: part("wait"),
    objective: part("objective"),
    waitMeter: part("meter"),
    waits: part("chart"),
    ready: part("figure"),
    running: part("figure"),
    dead: element("button", { type: "button", class: "figure dead", onclick: () => onDead(name) }),
    busy: part("figure"),
    slotMeter: part("meter"),
    rate: part("rate"),
    finished: part("chart"),
    reasons: element("ul", { class: "reasons" }),
  };
  const row = element("article", { class: "queue", data: { queue: name } },
    element("div", { class: "cell name" }, element("h2", { title: name }, name), parts.word, parts.buttons),
    cell("now", "Wait now",
      element("div", { class: "pair" }, parts.wait, parts.objective), parts.waitMeter),
    cell("waits", "Wait, 15 min", parts.waits),
    cell("number ready", "Ready", parts.ready),
    cell("number running", "Running", parts.running),
    cell("number dead", "Dead", parts.dead),
    cell("slots", "Slots busy", parts.busy, parts.slotMeter),
    cell("done", "Finished here, 15 min", parts.finished, parts.rate),
    parts.reasons,
  );
  return { element: row, show: (queue, figures) => show(row, parts, queue, figures) };
}

function show(row, parts, queue, figures) {
  row.dataset.level = queue.level;
  write(parts.word, queue.word);
  showSwitch(parts.buttons, queue);
  showWait(parts, queue, figures.steps);
  for (const key of ["ready", "running"]) {
    write(parts[key], count(queue[key]));
    parts[key].classList.toggle("none", !queue[key]);
  }
  showDead(parts.dead, queue);
  showSlots(parts, queue.fleet);
  drawFinished(parts.finished, queue.chart, figures.steps);
  write(parts.rate, `${perMinute(queue.per_second)} now`);
  const reasons = queue.reasons.map(({ level, text }) => element("li", { data: { level } }, text));
  if (parts.reasons.textContent !== queue.reasons.map(({ text }) => text).join("")) {
    parts.reasons.replaceChildren(...reasons);
  }
  parts.reasons.hidden = reasons.length === 0;
}

/** Offer pause or resume if the token is known; keep the button while the offer is unchanged. */
function showSwitch(place, queue) {
  const offer = hasToken() ? (queue.is_paused ? "resume" : "pause") : "";
  if (place.dataset.offer === offer) return;
  place.dataset.offer = offer;
  const said = element("span", { class: "said", role: "status" });
  const run = async (verb) => {
    said.textContent = "";
    try {
      await act(verb, { queue: queue.name });
      said.dataset.level = "good";
      said.textContent = "done";
    } catch (error) {
      said.dataset.level = "bad";
      said.textContent = `Not done: ${error.message}`;
    }
    document.dispatchEvent(new Event("acted"));
  };
  const choice = offer === "pause"
    ? carefulButton("Pause", "Pause on all hosts?", () => run("pause"), "quiet")
    : button("Resume", () => run("resume"));
  place.replaceChildren(...(offer ? [choice, said] : []));
}

function showWait(parts, queue, steps) {
  writeSpan(parts.wait, queue.wait_low, queue.wait_high);
  const objective = queue.objective?.seconds ?? null;
  write(parts.objective, objective === null ? "" : `of ${span(objective)}`);
  parts.objective.title = objective === null ? "" : `${queue.objective.percent} % of its tasks wait no longer`;
  parts.waitMeter.hidden = objective === null;
  if (objective !== null) drawMeter(parts.waitMeter, ((queue.wait ?? 0) / objective) * OBJECTIVE_MARK, OBJECTIVE_MARK);
  drawWaits(parts.waits, queue.chart.wait ?? [], queue.wait_ranges, objective, steps);
}

function showDead(target, queue) {
  write(target, queue.keeps_dead ? count(queue.dead) : UNKNOWN);
  target.disabled = !queue.keeps_dead || !queue.dead;
  target.classList.toggle("none", target.disabled);
  target.ariaLabel = `${target.textContent} dead letters of ${queue.name}`;
  target.title = queue.keeps_dead ? `Dead letters of ${queue.name}` : "Its dead letters are not kept";
}

function showSlots(parts, fleet) {
  const isNone = fleet.slots === 0;
  const absent = fleet.wanted ? "none up" : "no workers here";
  write(parts.busy, isNone ? absent : `${count(fleet.busy)} of ${count(fleet.slots)}`);
  parts.busy.classList.toggle("none", isNone);
  parts.slotMeter.hidden = isNone;
  if (!isNone) drawMeter(parts.slotMeter, fleet.busy / fleet.slots);
}
