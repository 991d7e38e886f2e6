// node-postgres with named statements: `node_app.js TABLES [asking]`. Its pool notices a connection
// that was closed while it was idle, and does not ask one before it lends it. `asking`: the
// application does, and takes another where there is no answer. The rest is in ledger.py.
"use strict";
const fs = require("fs");
const { Pool } = require("pg");

const [TABLE, MODE] = process.argv.slice(2);
const ATTEMPTS = 20;
const AGAIN_MS = 100;
const WORKERS = 8;
const PAUSE_MS = 1000;
const SECONDS_MAX = 300;
const STOP = "/run/secrets/stop";

// PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSFILE are in the environment; TLS is not read there.
const pool = new Pool({
  max: WORKERS,
  idleTimeoutMillis: 0,
  ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, "utf8") },
});
// Without these a connection that ends ends the process: one that is idle in the pool, and one that
// is lent with no query in flight. The pool drops the one, the next query of the other fails.
pool.on("error", () => {});
pool.on("connect", (client) => client.on("error", () => {}));

const record = { attempted: Array(WORKERS).fill(0), absent: [], unknown: [], errors: [] };
const place = { begin: record.absent, commit: record.unknown, read: [] };
const pause = () => new Promise((done) => setTimeout(done, Math.random() * PAUSE_MS));
const ends = Date.now() + SECONDS_MAX * 1000;
const goesOn = () => Date.now() < ends && !fs.existsSync(STOP);
const count = (list, worker) => list.filter(([one]) => one === worker).length;

async function lend() {
  if (MODE !== "asking") return pool.connect();
  for (let attempt = 1; ; attempt++) {
    let client;
    try {
      client = await pool.connect();
      await client.query("SELECT 1");
      return client;
    } catch (error) {
      if (client) client.release(error);
      if (attempt === ATTEMPTS) throw error;
      await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }
}

async function transaction(worker, attempt) {
  const client = await lend();
  let failure;
  try {
    await client.query("BEGIN");
    await client.query({
      name: "insert",
      text: `INSERT INTO ${TABLE}_entry (worker, number) VALUES ($1, $2)`,
      values: [worker, attempt.number],
    });
    await client.query({
      name: "update",
      text: `UPDATE ${TABLE}_total SET entries = entries + 1 WHERE worker = $1`,
      values: [worker],
    });
    attempt.phase = "commit";
    await client.query("COMMIT");
    attempt.phase = "read";
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    // With an error the pool closes the connection.
    client.release(failure);
  }
}

async function total(worker) {
  const client = await lend();
  let failure;
  try {
    const found = await client.query({
      name: "select",
      text: `SELECT entries FROM ${TABLE}_total WHERE worker = $1`,
      values: [worker],
    });
    return found.rows[0].entries;
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    client.release(failure);
  }
}

async function read(worker, attempt) {
  const entries = await total(worker);
  const most = attempt.number + 1 - count(record.absent, worker);
  const unknown = count(record.unknown, worker);
  if (entries < most - unknown || entries > most) {
    throw new Error(`read ${entries} entries after ${most}, of which ${unknown} unknown`);
  }
}

async function work(worker) {
  while (goesOn()) {
    const attempt = { number: record.attempted[worker]++, phase: "begin" };
    try {
      await transaction(worker, attempt);
      await read(worker, attempt);
    } catch (error) {
      place[attempt.phase].push([worker, attempt.number]);
      const kind = `${error.name} ${error.code || ""}: ${error.message}`.split("\n")[0];
      record.errors.push({ at: Date.now() / 1000, phase: attempt.phase, kind });
    }
    await pause();
  }
}

Promise.all([...Array(WORKERS).keys()].map(work))
  .then(() => pool.end())
  .then(() => console.log(JSON.stringify(record)));
