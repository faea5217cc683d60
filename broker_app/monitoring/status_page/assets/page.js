// Entry point: polls the figures and renders them.

import { drawMeter } from "./charts.js";
import { element, write } from "./elements.js";
import { ago, count, span, spanBetween, time } from "./figures.js";
import { openLetters, refreshLetters } from "./letters.js";
import { makeRow } from "./queue.js";
import { act, follow, hasToken, keepToken } from "./server.js";

const byId = (id) => document.getElementById(id);
const RANKS = ["bad", "warn", "good", "quiet"];
const rows = new Map();
let last = null;

const ask = follow(show, showError);
document.addEventListener("acted", ask);

function show(figures) {
  last = figures;
  document.body.classList.remove("stale");
  write(byId("where"), `${figures.app} on ${figures.host}`);
  byId("where").title = `version ${figures.version}`;
  write(byId("pulse"), `as of ${time(figures.at)}`);
  showSummary(figures);
  byId("notices").replaceChildren(...notices(figures));
  showQueues(figures);
  showScheduled(figures.scheduled);
  showNodes(figures.nodes);
  byId("unlock").hidden = !figures.actions.is_enabled || hasToken();
}

/** Mark the page as stale: its server does not answer. */
function showError(words, pause) {
  document.body.classList.add("stale");
  document.title = "? broker-app";
  const since = last ? `The figures are from ${time(last.at)}.` : "";
  const text = `This page's server does not answer: ${words}. ${since} Retrying in ${span(pause)}.`;
  byId("notices").replaceChildren(notice("bad", text));
  write(byId("pulse"), "not connected");
  if (!last) write(byId("summary").querySelector("h1"), "No figures");
}

function showSummary({ summary, queues, app, broker }) {
  const place = byId("summary");
  place.dataset.level = summary.level;
  write(place.querySelector("h1"), summary.text);
  const worst = queues.find((queue) => queue.level === summary.level && ["bad", "warn"].includes(summary.level));
  const words = broker.is_up ? worst && why(worst) : `${broker.problem}. The figures of this host's workers are still updated below.`;
  write(place.querySelector("p"), words || "");
  const mark = { good: "✓", warn: "!", bad: "✗", quiet: "·" }[summary.level];
  document.title = `${mark} ${summary.text} · ${app}`;
}

function why(queue) {
  const objective = queue.objective?.seconds ?? null;
  const isLate = objective !== null && queue.wait !== null && queue.wait > objective;
  const first = isLate ? `The wait is ${spanBetween(queue.wait_low, queue.wait_high)}; ${span(objective)} is the objective.` : "";
  return [first, ...queue.reasons.map(({ text }) => text)].filter(Boolean).slice(0, 3).join(" ");
}

function notice(level, text) {
  return element("p", { class: "notice", data: { level } }, text);
}

function notices({ broker, files, parked, spooled }) {
  const found = [];
  const say = (level, text) => found.push(notice(level, text));
  if (broker.is_up && !broker.has_management) {
    say("warn", `The broker's management API does not answer, so running and scheduled tasks are unknown: ${broker.problem}.`);
  } else if (broker.age_seconds > 30) {
    say("warn", `The broker's figures are ${span(broker.age_seconds)} old.`);
  }
  if (files.problem) say("bad", `The workers' metrics cannot be read: ${files.problem}.`);
  if (files.unreadable) say("warn", `Unreadable metrics files: ${count(files.unreadable)}; the log names them.`);
  if (parked) say("warn", `Tasks due for a queue that no longer exists: ${count(parked)}; broker-app queues unrouted lists them.`);
  if (spooled) say("warn", `Tasks in this host's spool, not on the broker yet: ${count(spooled)}.`);
  return found;
}

function showQueues(figures) {
  for (const queue of figures.queues) {
    if (!rows.has(queue.name)) rows.set(queue.name, makeRow(queue.name, openLetters));
    rows.get(queue.name).show(queue, figures);
  }
  const wanted = figures.queues.toSorted(byUrgency).map((queue) => rows.get(queue.name).element);
  const place = byId("queues");
  const found = [...place.querySelectorAll("article")];
  if (wanted.some((row, index) => row !== found[index])) place.append(...wanted);
}

/** Sort by severity, then in the order of the settings. */
function byUrgency(one, other) {
  return RANKS.indexOf(one.level) - RANKS.indexOf(other.level);
}

function showScheduled(scheduled) {
  const place = byId("scheduled");
  write(place.querySelector(".aside"), scheduled ? count(scheduled.total) : "unknown");
  const bars = place.querySelector(".bars");
  if (!scheduled) {
    bars.replaceChildren(element("p", { class: "empty" }, "The broker does not report scheduled tasks."));
    return;
  }
  const highest = Math.max(1, ...scheduled.buckets.map((bucket) => bucket.count));
  const lines = scheduled.buckets.map((bucket) => scheduledLine(bucket.due, bucket.count, highest));
  if (scheduled.held_up) lines.push(element("p", { class: "notice", data: { level: "warn" } },
    `Due, but their queue does not accept them: ${count(scheduled.held_up)}.`));
  bars.replaceChildren(...lines);
}

function scheduledLine(due, number, highest) {
  const meter = element("span", { class: "meter" });
  drawMeter(meter, number / highest);
  return element("div", { class: "line" },
    element("span", {}, due === "later" ? due : `within ${due}`), meter,
    element("span", { class: number ? "figure" : "figure none" }, count(number)));
}

function showNodes(nodes) {
  const place = byId("nodes");
  const up = nodes.filter((node) => node.is_up).length;
  write(place.querySelector(".aside"), nodes.length ? `${count(up)} of ${count(nodes.length)} up` : "");
  const none = element("p", { class: "empty" }, "No worker has run on this host; broker-app fleet start starts the workers.");
  place.querySelector(".list").replaceChildren(...(nodes.length ? nodes.map(nodeLine) : [none]));
}

function nodeLine(node) {
  const meter = element("span", { class: "meter" });
  drawMeter(meter, node.slots ? node.busy / node.slots : 0);
  const load = node.is_up ? `${count(node.busy)} of ${count(node.slots)}` : "down";
  const held = node.reserved ? `${count(node.reserved)} waiting` : "";
  const age = node.last_task_age === null ? "" : `last task ${ago(node.last_task_age)}`;
  return element("div", { class: "line", data: { level: node.is_up ? "good" : "bad" } },
    element("span", { class: "node", title: node.name }, node.name), meter,
    element("span", { class: "figure" }, load),
    element("span", { class: "note" }, [held, age].filter(Boolean).join(", ")));
}

const key = byId("key");
byId("unlock").addEventListener("click", () => key.showModal());
key.querySelector(".close").addEventListener("click", () => key.close());
key.addEventListener("close", () => {
  key.querySelector("input").value = "";
  key.querySelector(".said").textContent = "";
});
key.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = key.querySelector(".said");
  keepToken(key.querySelector("input").value);
  try {
    await act("check", {});
    key.close();
    byId("unlock").hidden = true;
    refreshLetters();
    if (last) showQueues(last);
  } catch (error) {
    keepToken("");
    said.dataset.level = "bad";
    said.textContent = error.message;
  }
});
