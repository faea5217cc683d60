// Charts of the last 15 minutes, newest column on the right, and meters.

import { element, shape } from "./elements.js";
import { perMinute, spanBetween } from "./figures.js";

const COLUMN = 4;
const GAP = 1;
const HEIGHT = 40;

function frame(columns, label) {
  const drawing = shape("svg", {
    viewBox: `0 0 ${columns * COLUMN} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  });
  drawing.append(shape("line", { class: "floor", x1: 0, x2: columns * COLUMN, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }));
  return drawing;
}

function column(index, low, high, name) {
  return shape("rect", {
    class: name,
    x: index * COLUMN,
    width: COLUMN - GAP,
    y: HEIGHT - high,
    height: Math.max(high - low, high > low ? 0.75 : 0),
  });
}

/** Fill a chart with its drawing and a label for its highest column. */
function fill(target, drawing, words) {
  target.replaceChildren(drawing, element("span", { class: "top" }, words));
}

/** Draw the waits against the objective; each column is solid up to the lower bound and pale up to the upper one. */
export function drawWaits(target, waits, ranges, objective, steps) {
  const known = waits.filter((wait) => wait !== null);
  const top = ranges.reduce((best, one) => (one && (one[1] ?? Infinity) >= (best ? best[1] ?? Infinity : 0) ? one : best), null);
  const highest = Math.max(0, ...known, ...ranges.map((one) => one?.[1] ?? 0));
  const scale = Math.max(highest, objective ? objective * 1.25 : 0, 0.001);
  const words = highest ? `max ${spanBetween(...top)}` : "";
  const drawing = frame(steps, `Waits of the last 15 minutes, ${words || (known.length ? "nothing waited" : "none known")}`);
  const shown = waits.slice(-steps);
  shown.forEach((wait, index) => {
    if (wait === null) return;
    const position = steps - shown.length + index;
    const name = objective && wait > objective ? "over" : "within";
    const [low, high] = ranges.at(index - shown.length);
    const heights = [low, high ?? scale].map((bound) => (bound / scale) * (HEIGHT - 2));
    drawing.append(column(position, 0, heights[0], name), column(position, ...heights, `${name} maybe`));
  });
  if (objective) {
    const y = HEIGHT - (objective / scale) * (HEIGHT - 2);
    drawing.append(shape("line", { class: "objective", x1: 0, x2: steps * COLUMN, y1: y, y2: y }));
  }
  fill(target, drawing, words);
}

/** Draw finished, failed and published tasks. */
export function drawFinished(target, chart, steps) {
  const finished = (chart.finished ?? []).slice(-steps);
  const failed = (chart.failed ?? []).slice(-steps);
  const published = (chart.published ?? []).slice(-steps);
  const highest = Math.max(0, ...finished, ...published);
  const words = highest ? `max ${perMinute(highest)}` : "";
  target.classList.toggle("idle", !highest);
  const drawing = frame(steps, `Tasks finished in the last 15 minutes, ${words || "none"}`);
  const scale = (HEIGHT - 2) / (highest || 1);
  const first = steps - finished.length;
  finished.forEach((value, index) => {
    const bad = failed[index] * scale;
    drawing.append(column(first + index, bad, value * scale, "done"), column(first + index, 0, bad, "failed"));
  });
  if (published.some((value) => value > 0)) {
    const points = published.flatMap((value, index) => {
      const y = (HEIGHT - value * scale).toFixed(2);
      return [`${(first + index) * COLUMN},${y}`, `${(first + index + 1) * COLUMN},${y}`];
    });
    drawing.append(shape("polyline", { class: "published", points: points.join(" ") }));
  }
  fill(target, drawing, words);
}

/** Draw a meter for a share, 0..1; `mark` is the position of a marker, 0..1. */
export function drawMeter(target, share, mark = null) {
  const part = Math.max(0, Math.min(1, share));
  const drawing = shape("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(
    shape("rect", { class: "track", width: 100, height: 6 }),
    shape("rect", { class: "part", width: part * 100, height: 6 }),
  );
  if (mark !== null) drawing.append(shape("rect", { class: "mark", x: mark * 100 - 0.5, width: 1, height: 6 }));
  target.replaceChildren(drawing);
}
