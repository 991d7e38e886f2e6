// Draws what the console sends: the parts path, plan, alerts, history and hour, each as it comes.
import { drawCharts, keepHistory, keepHour, keepPoint } from "./charts.js";
import { element } from "./dom.js";

// Longer than a look at a path whose every tier hangs.
const STALE_MS = 6000;
const RETRY_MS = 5000;
const byId = (id) => document.getElementById(id);
let source = null;
let heardAt = 0;
let announced = "";

// Elements -----------------------------------------------------------------------------------

const fill = (id, ...children) => byId(id).replaceChildren(...children);

function setText(id, text) {
  const found = byId(id);
  if (found.textContent !== text) found.textContent = text;
}

function setState(node, state) {
  if (node.dataset.state !== state) node.dataset.state = state;
}

// A number of its limit, as text and as a bar: the bar only repeats what the text says.
function gauge(name, used, limit, { state = "", more = "" } = {}) {
  const share = limit > 0 ? Math.min(1, used / limit) : 0;
  const part = element("i");
  part.style.width = `${(100 * share).toFixed(1)}%`;
  const full = state || (share >= 1 ? "wait" : "");
  return element(
    "div", { class: "gauge" },
    element("span", {}, name), element("b", {}, `${used} of ${limit}${more}`),
    element("div", { class: "bar", "data-state": full, "aria-hidden": "true" }, part),
  );
}

const badge = (text, state) => element("span", { class: "badge", "data-state": state }, text);

function process(name, state, ...children) {
  return element("div", { class: "process", "data-state": state }, element("h4", {}, name), ...children);
}

function numbers(pairs) {
  const list = element("dl");
  for (const [name, value, state] of pairs) {
    list.append(element("dt", {}, name), element("dd", { class: state ?? "" }, value));
  }
  return list;
}

const waits = (count) => (count ? element("span", { class: "waits" }, `${count} waiting`) : "0 waiting");
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const seconds = (value) => (value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`);
const sum = (list, name) => list.reduce((total, one) => total + one[name], 0);
// A container's name without the project's, which all of them have.
const short = (name) => name.replace(/^.*-(api|worker|pgbouncer)-(\d+)/, "$1 $2");

// The path -----------------------------------------------------------------------------------

// A tier: what it is in, as colour and as a word, and whether the sentence is about it.
function drawTier(id, state, word, here, ...content) {
  const tier = byId(id);
  setState(tier, state);
  tier.toggleAttribute("data-here", here);
  const title = tier.firstElementChild;
  const marks = [word ? badge(word, state) : "", here ? badge("bottleneck", state) : ""];
  title.replaceChildren(title.firstChild.textContent, element("span", {}, ...marks.filter(Boolean)));
  tier.lastElementChild.replaceChildren(...content);
}

function drawArrow(id, count, noun, down) {
  const arrow = byId(id);
  setState(arrow, down ? "down" : count ? "wait" : "ok");
  arrow.textContent = down ? "no answer" : `${count} ${noun}`;
}

function drawCallers(path) {
  const minute = path.last_minute;
  const failing = Boolean(minute?.errors);
  const content = minute
    ? numbers([
      ["requests/s", (minute.requests / 60).toFixed(1)],
      ["errors (5xx)", String(minute.errors), failing ? "fault" : ""],
      ["p95", minute.p95_seconds === null ? "none" : `${Math.round(1000 * minute.p95_seconds)} ms`],
    ])
    : element("p", { class: "fault" }, "not known: no api process answers");
  const note = element("p", { class: "note" }, "last minute");
  drawTier("callers", failing ? "down" : minute ? "ok" : "unknown", failing ? "errors" : "", false, content, note);
}

function drawApp(path, here) {
  const silent = path.app.some((one) => one.error);
  const waiting = sum(path.app, "waiting");
  const parts = path.app.map((one) => {
    if (one.error) return process(short(one.name), "down", element("p", {}, one.error));
    const state = one.waiting ? "wait" : "";
    const restart = one.needs_restart.length ? `, restart waits for ${one.needs_restart.length}` : "";
    return process(
      short(one.name), state,
      gauge("in use", one.in_use, one.max_size, { state: state }),
      element("p", {}, `${one.idle} idle, `, waits(one.waiting), restart),
    );
  });
  drawTier("app", silent ? "down" : waiting ? "wait" : "ok", silent ? "no answer" : waiting ? "waits" : "", here, ...parts);
  drawArrow("to-app", waiting, "wait", path.app.every((one) => one.error));
}

// The entry of the health checks has one connection, and no part in the work.
const isWork = (pool) => pool.user !== "sluice_monitor";

function drawPool(pool) {
  const state = pool.clients_waiting ? "wait" : "";
  const more = pool.reserve_size ? ` + ${pool.reserve_size}` : "";
  const longest = pool.clients_waiting ? `, longest ${seconds(pool.max_wait_seconds)}` : "";
  return [
    gauge(pool.database, pool.servers_active, pool.pool_size, { state: state, more: more }),
    element(
      "p", {}, plural(pool.clients_active, "client"), ", ", waits(pool.clients_waiting), longest,
      `, ${pool.servers_idle} idle, ${pool.transactions_per_second.toFixed(0)}/s, ${pool.transaction_ms.toFixed(1)} ms`,
    ),
  ];
}

function drawPgBouncer(path, here) {
  const silent = path.poolers.some((one) => one.error);
  const paused = path.poolers.some((one) => one.paused);
  const pools = path.poolers.flatMap((one) => one.pools).filter(isWork);
  const waiting = sum(pools, "clients_waiting");
  const parts = path.poolers.map((one) => {
    if (one.error) return process(short(one.name), "down", element("p", {}, one.error));
    const state = one.paused ? "wait" : "";
    const title = one.paused ? `${short(one.name)}: paused` : short(one.name);
    return process(title, state, ...one.pools.filter(isWork).flatMap(drawPool));
  });
  const word = silent ? "no answer" : paused ? "paused" : waiting ? "waits" : "";
  drawTier("pgbouncer", silent ? "down" : word ? "wait" : "ok", word, here, ...parts);
  drawArrow("to-pgbouncer", waiting, "wait", path.poolers.every((one) => one.error));
}

function drawPostgres(path, here) {
  const server = path.server;
  if (server.error) {
    const text = element("p", { class: "fault" }, server.error);
    drawTier("postgres", "down", "no answer", here, text);
    drawArrow("to-postgres", 0, "", true);
    return;
  }
  const blocked = server.blocked.length;
  const busy = server.on_cpu > server.processors;
  const rows = [
    ["queries on processors", `${server.on_cpu} of ${server.processors}`, busy ? "waits" : ""],
    ["waiting for the disk", String(server.on_disk), server.on_disk > server.processors ? "waits" : ""],
    ["waiting for a lock", String(blocked), blocked ? "waits" : ""],
    ["oldest transaction", server.oldest ? seconds(server.oldest.seconds) : "none"],
    ["idle in a transaction", String(server.idle.length), server.idle.length ? "waits" : ""],
    ["tasks queued, running", server.tasks_queued === null ? "not known" : `${server.tasks_queued}, ${server.tasks_running}`],
  ];
  if (server.checkpointing) rows.push(["checkpoint", "in a hurry", "waits"]);
  const word = blocked ? "locks" : busy ? "busy" : "";
  drawTier(
    "postgres", word || here ? "wait" : "ok", word, here,
    gauge("sessions", server.connections, server.max_connections), numbers(rows),
  );
  drawArrow("to-postgres", blocked, "blocked", false);
}

function drawBudget(path) {
  const budget = path.budget;
  const answering = path.poolers.filter((one) => !one.error);
  const app = path.app.filter((one) => !one.error);
  const bars = [];
  const add = (name, used, limit) => bars.push(gauge(name, used, limit, { state: used >= 0.9 * limit ? "wait" : "ok" }));
  // A pool that has all of its connections open is as it should be.
  const addPools = (name, used, limit) => bars.push(gauge(name, used, limit, { state: "ok" }));
  addPools("connections of the app's pools", sum(app, "size"), budget.app_pool_connections);
  for (const one of answering) {
    const clients = sum(one.pools, "clients_active") + sum(one.pools, "clients_waiting");
    add(`clients of ${short(one.name)}`, clients, budget.client_connections_max);
  }
  // Those in use are the most of several looks, idle ones the mean: together they may be too many.
  const servers = answering.flatMap((one) => one.pools).reduce((total, one) => total
    + Math.min(one.servers_active + one.servers_idle + one.servers_login, one.pool_size + one.reserve_size), 0);
  addPools("server connections of PgBouncer", servers, budget.server_connections_pooled);
  if (!path.server.error) {
    add("sessions of PostgreSQL", path.server.connections, budget.max_connections);
    for (const one of path.server.roles.filter((role) => role.limit >= 0)) {
      const total = Object.values(one.by_state).reduce((all, count) => all + count, 0);
      add(`sessions of ${one.role}`, total, one.limit);
    }
  }
  const rest = `${budget.server_connections_direct} of the sessions are for direct ones, `
    + `${budget.server_connections_reserved} are reserved, ${budget.server_connections_spare} are nobody's.`;
  fill("bars", ...bars, element("p", { class: "note" }, rest));
}

function drawVerdict(verdict, down) {
  const free = verdict.where === "none";
  setState(byId("verdict"), free ? "ok" : down ? "down" : "wait");
  setText("sentence", free ? "None: nothing waits." : verdict.line);
  const named = !verdict.setting || verdict.line.includes(verdict.setting);
  setText("setting", named ? "" : `Setting: ${verdict.setting}`);
  setText("command", verdict.command);
  byId("command").hidden = !verdict.command;
  // Its numbers change every second: a reader of the screen hears of another bottleneck only.
  const which = `${verdict.where} ${verdict.setting}`;
  if (which !== announced) setText("said", free ? "No bottleneck" : `Bottleneck: ${verdict.line}`);
  announced = which;
}

function drawPath(path) {
  heardAt = performance.now();
  if (path.error) {
    setState(byId("verdict"), "unknown");
    setText("sentence", `The console cannot look: ${path.error}`);
    return;
  }
  const here = path.bottleneck.tier;
  drawVerdict(path.bottleneck, path.unreachable.length > 0);
  drawCallers(path);
  drawApp(path, ["app", "api", "worker"].includes(here));
  drawPgBouncer(path, here === "pgbouncer");
  drawPostgres(path, here === "postgres");
  drawBudget(path);
  keepPoint(path);
  drawCharts();
}

// The other parts ----------------------------------------------------------------------------

function drawAlerts(found) {
  if (found.error) {
    fill("firing", element("p", { class: "note" }, `Not known: Prometheus does not answer (${found.error}).`));
    return;
  }
  if (!found.alerts.length) {
    fill("firing", element("p", {}, "None fires."));
    return;
  }
  const items = found.alerts.map((one) => element(
    "li", {},
    badge(one.severity || "alert", one.severity === "critical" ? "down" : "wait"),
    ` ${one.name}: ${one.summary} `, element("span", { class: "note" }, `since ${one.since.slice(11, 19)} UTC`),
  ));
  fill("firing", element("ul", {}, ...items));
}

const line = (text, name = "") => element("p", { class: name }, text);

function pendingOf(plan) {
  if (plan.error) return [line(`Not known: ${plan.error}`, "note")];
  if (!plan.ok) {
    return [line(`${plan.file} would be refused:`, "fault"), ...plan.faults.map((one) => line(one.message))];
  }
  const parts = [];
  if (plan.differences?.length) {
    const rows = plan.differences.map((one) => element(
      "tr", {}, ...[one.setting, String(one.was ?? "none"), String(one.now), one.change].map((text) => element("td", {}, text)),
    ));
    const heads = ["Pending", "Running", "In the file", "Change"].map((text) => element("th", { scope: "col" }, text));
    parts.push(element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)));
    const restarts = [...plan.restart, ...plan.recreate];
    const next = restarts.length ? "make apply RESTART=yes" : "make apply";
    parts.push(element("p", {}, restarts.length ? `Needs a restart of ${restarts.join(", ")}: ` : "All of it is live: ", element("code", {}, next)));
  } else {
    parts.push(line(`What runs is what ${plan.file} says.`));
  }
  parts.push(...plan.unreachable.map((one) => line(`Not compared: ${one}`, "note")));
  parts.push(...plan.drift.map((one) => line(`Differs from the last compile: ${one}`, "waits")));
  parts.push(...plan.warnings.map((one) => line(`Warning: ${one.message}`, "waits")));
  return parts;
}

function drawPlan(plan) {
  fill("pending", ...pendingOf(plan));
  const rows = Object.entries(plan.running ?? {}).map(([name, value]) => element(
    "tr", {}, element("td", {}, element("code", {}, name)), element("td", {}, String(value)),
  ));
  fill("running", ...rows);
}

// The feed -----------------------------------------------------------------------------------

const parts = { path: drawPath, alerts: drawAlerts, plan: drawPlan, history: keepHistory, hour: keepHour };

function connect() {
  if (source || document.hidden) return;
  source = new EventSource("events");
  for (const [name, draw] of Object.entries(parts)) {
    source.addEventListener(name, (message) => draw(JSON.parse(message.data)));
  }
  source.addEventListener("error", () => {
    // The browser itself tries again, but not after an answer that is no stream.
    if (source?.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(connect, RETRY_MS);
    }
  });
}

function disconnect() {
  source?.close();
  source = null;
}

function watchFeed() {
  const silence = performance.now() - heardAt;
  const stale = !heardAt || silence > STALE_MS;
  document.body.toggleAttribute("data-stale", stale && heardAt > 0);
  const old = heardAt ? `no news for ${5 * Math.floor(silence / 5000)} s: this is old` : "the console does not answer, or has too many pages";
  setText("feed", stale ? old : "live");
  setState(byId("feed"), stale ? "down" : "ok");
}

document.querySelector("details").open = window.matchMedia("(min-width: 1100px)").matches;
// A page that nobody sees costs nothing, and a browser has few connections for one site.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
setInterval(watchFeed, 1000);
connect();
