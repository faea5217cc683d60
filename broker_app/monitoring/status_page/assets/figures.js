// Number formatting. Unknown values are shown as a dash.

import { element } from "./elements.js";

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function count(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return value < 1e6 ? whole.format(value) : short.format(value);
}

/** Format a rate per second as a rate per minute. */
export function perMinute(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const minute = value * 60;
  if (minute === 0) return "0/min";
  return minute < 10 ? `${minute.toFixed(1)}/min` : `${count(minute)}/min`;
}

export function time(seconds) {
  return clock.format(new Date(seconds * 1000));
}

/** Return a duration as at most two pairs of number and unit: 3 min 20 s. */
function parts(seconds) {
  if (seconds === 0) return [["0", "s"]];
  if (seconds < 0.9995) return [[whole.format(seconds * 1000), "ms"]];
  if (seconds < 9.95) return [[String(Number(seconds.toFixed(1))), "s"]];
  if (seconds < 59.5) return [[whole.format(seconds), "s"]];
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => Math.round(seconds) >= size);
  const [name, size] = units[first];
  const number = Math.floor(Math.round(seconds) / size);
  const [lessName, lessSize] = units[first + 1];
  const rest = Math.floor((Math.round(seconds) % size) / lessSize);
  const found = [[whole.format(number), name]];
  if (rest && number < 10) found.push([String(rest), lessName]);
  return found;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  return parts(seconds).map((pair) => pair.join("\u00a0")).join(" ");
}

/** Ratio of bounds from which a range is shown: the midpoint would be off by more than 10 %. */
const RANGE_FROM = 1.2;

/** Return the pieces of a duration range: texts, and units as `[unit]`. */
function pieces(low, high) {
  if (low === null || low === undefined) return [UNKNOWN];
  if (high === null || high === undefined) return ["over ", ...flat(low)];
  if (high <= low * RANGE_FROM) return flat((low + high) / 2);
  if (low === 0) return ["under ", ...flat(high)];
  const [first, last] = [parts(low), parts(high)];
  const isShort = first.length === 1 && last.length === 1 && first[0][1] === last[0][1];
  return [...(isShort ? [first[0][0]] : flat(low)), "–", ...flat(high)];
}

function flat(seconds) {
  return parts(seconds).flatMap(([number, unit], index) => [...(index ? [" "] : []), number, [unit]]);
}

/** Format a duration range as text. */
export function spanBetween(low, high) {
  return pieces(low, high).map((piece) => Array.isArray(piece) ? `\u00a0${piece[0]}` : piece).join("");
}

export function ago(seconds) {
  return seconds < 2 ? "just now" : `${span(seconds)} ago`;
}

/** Write a duration range in large type with small units. */
export function writeSpan(target, low, high) {
  const text = spanBetween(low, high);
  if (target.dataset.text === text) return;
  target.dataset.text = text;
  target.classList.toggle("range", text.length > 9);
  target.replaceChildren(...pieces(low, high).map((one) => Array.isArray(one) ? element("small", {}, one[0]) : one));
}
