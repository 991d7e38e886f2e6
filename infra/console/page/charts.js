// The charts: what the console kept itself, and before that what Prometheus knows.
/* global uPlot */
import { element } from "./dom.js";

const KEPT_SECONDS = 600;
const HOUR_SECONDS = 3600;
// On a wall they are to be seen from afar.
const height = () => Math.max(130, Math.round(0.14 * window.innerHeight));
// In a chart: its lines, by the name that the console gives them.
const CHARTS = [
  ["Latency, ms", { p95_ms: "request p95", transaction_ms: "transaction", wait_ms: "wait for a server" }],
  ["Throughput, /s", { requests_per_second: "requests", transactions_per_second: "transactions" }],
  ["Waiting", { app_waiting: "for the app's pools", pgbouncer_waiting: "for PgBouncer" }],
  ["Connections in use", { app_in_use: "app pools", servers_active: "PgBouncer", sessions: "PostgreSQL" }],
];
// Told apart by colour and by dashes.
const STROKES = ["--one", "--two", "--three"];
const DASHES = [[], [6, 3], [2, 3]];
const NAMES = CHARTS.flatMap(([, lines]) => Object.keys(lines));

const empty = () => ({ times: [], lines: Object.fromEntries(NAMES.map((name) => [name, []])) });
let kept = empty();
let hour = empty();
let hourFault = "";
let plots = [];
// From the console's clock, which does not jump, to the time of day here.
let skew = 0;

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const timeOfDay = (at) => clock.format(1000 * at);
const now = () => (performance.timeOrigin + performance.now()) / 1000;

export function keepHistory(found) {
  skew = now() - found.at;
  kept = { ...empty(), ...(found.times.length ? found : {}) };
}

export function keepHour(found) {
  hourFault = found.error ? `Prometheus does not answer (${found.error})` : "";
  hour = found.error ? empty() : found;
  if (!hourFault && !NAMES.some((name) => hour.lines[name].some((value) => value !== null))) {
    hourFault = "Prometheus has no data yet";
  }
}

// The console sends the newest point with the path it is of.
export function keepPoint(path) {
  skew = now() - path.at;
  kept.times.push(path.at);
  for (const name of NAMES) kept.lines[name].push(path.point[name] ?? null);
  const old = kept.times.findIndex((at) => at >= path.at - KEPT_SECONDS);
  if (old > 0) {
    kept.times.splice(0, old);
    for (const name of NAMES) kept.lines[name].splice(0, old);
  }
}

function columns(names) {
  const first = kept.times[0] ?? Infinity;
  const until = hour.times.findIndex((at) => at >= first);
  const count = until < 0 ? hour.times.length : until;
  const times = [...hour.times.slice(0, count), ...kept.times].map((at) => at + skew);
  return [times, ...names.map((name) => [...hour.lines[name].slice(0, count), ...kept.lines[name]])];
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const rem = () => Number.parseFloat(getComputedStyle(document.documentElement).fontSize);

function sample(index) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", "0 0 24 8");
  picture.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
  drawn.setAttribute("d", "M0 4h24");
  drawn.setAttribute("stroke", colour(STROKES[index]));
  drawn.setAttribute("stroke-width", "2.5");
  drawn.setAttribute("stroke-dasharray", DASHES[index].join(" "));
  picture.append(drawn);
  return picture;
}

const shown = (value) => (value === null || value === undefined ? "none" : Number(value.toPrecision(3)).toLocaleString("en"));

function makePlot([title, lines]) {
  const names = Object.keys(lines);
  const values = names.map(() => element("b"));
  const caption = element("figcaption", {}, element("strong", {}, title));
  names.forEach((name, index) => caption.append(element("span", {}, sample(index), `${lines[name]} `, values[index])));
  const box = element("div", { class: "plot", "aria-hidden": "true" });
  document.getElementById("plots").append(element("figure", {}, caption, box));
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `${Math.round(0.75 * rem())}px system-ui` };
  const say = (plot) => {
    const at = plot.cursor.idx ?? plot.data[0].length - 1;
    values.forEach((node, index) => { node.textContent = shown(plot.data[index + 1][at]); });
  };
  const plot = new uPlot({
    width: box.clientWidth,
    height: height(),
    legend: { show: false },
    cursor: { drag: { setScale: false }, points: { show: false }, y: false },
    scales: { y: { range: (_self, _low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [{ ...axis, size: 1.8 * rem(), space: 4 * rem(), values: (_self, splits) => splits.map(timeOfDay) }, { ...axis, size: 3.2 * rem() }],
    series: [{}, ...names.map((name, index) => ({ label: lines[name], stroke: colour(STROKES[index]), width: 2, dash: DASHES[index], points: { size: 4 } }))],
    hooks: { setData: [say], setCursor: [say] },
  }, columns(names), box);
  return { plot, names, box };
}

function forget() {
  plots.forEach(({ plot }) => plot.destroy());
  plots = [];
  document.getElementById("plots").replaceChildren();
}

export function drawCharts() {
  if (typeof uPlot === "undefined" || kept.times.length < 2) return;
  if (!plots.length) plots = CHARTS.map(makePlot);
  const end = now();
  const length = hourFault || !hour.times.length ? KEPT_SECONDS : HOUR_SECONDS;
  for (const { plot, names } of plots) {
    plot.batch(() => {
      plot.setData(columns(names), false);
      plot.setScale("x", { min: end - length, max: end });
    });
  }
  const own = "the last 10 minutes, kept by the console";
  document.getElementById("span").textContent = hourFault
    ? `Of ${own}. Of the last hour nothing is known: ${hourFault}.`
    : `Of the last hour: from Prometheus, and ${own}.`;
}

// Sizes and colours are drawn into the pictures.
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  forget();
  drawCharts();
});
new ResizeObserver(() => {
  for (const { plot, box } of plots) {
    if (box.clientWidth !== plot.width || height() !== plot.height) plot.setSize({ width: box.clientWidth, height: height() });
  }
}).observe(document.documentElement);
