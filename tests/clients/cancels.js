// node-postgres, whose request goes where the name leads to at that moment: `node cancels.js COUNT`.
// What it does and prints is in cancels.py.
"use strict";
const fs = require("fs");
const { Client } = require("pg");

const VICTIMS = 2;
const STATEMENT =
  "DO $$ BEGIN RAISE NOTICE 'runs'; PERFORM pg_sleep(2); RAISE NOTICE 'ended'; END $$";
const BYSTANDER = "SELECT pg_sleep(0.002)";
const CANCELLED = "57014";

// PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSFILE are in the environment; TLS is not read there.
const options = { ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, "utf8") } };
const record = { sent: 0, lost: 0, wrong: 0, beside: 0, other: [] };
let left = Number(process.argv[2]);
let ending = false;

async function open() {
  const client = new Client(options);
  await client.connect();
  return client;
}

async function cancel() {
  const client = await open();
  while (left-- > 0) {
    let ran = false;
    let onNotice;
    const query = new (require("pg").Query)(STATEMENT);
    const runs = new Promise((resolve) => {
      onNotice = (notice) => {
        if (notice.message === "runs") resolve();
        if (notice.message === "ended") ran = true;
      };
      client.on("notice", onNotice);
    });
    const ended = new Promise((resolve) => {
      query.on("end", () => resolve());
      query.on("error", (error) => resolve(error));
    });
    client.query(query);
    await runs;
    const canceller = new Client({});
    canceller.connection.on("error", () => {});
    canceller.cancel(client, query);
    const error = await ended;
    client.removeListener("notice", onNotice);
    record.sent++;
    if (ran) record.lost++;
    else if (!error || error.code !== CANCELLED) record.other.push(String(error));
  }
  await client.end();
}

async function standBy() {
  const client = await open();
  while (!ending) {
    try {
      await client.query(BYSTANDER);
      record.beside++;
    } catch (error) {
      if (error.code !== CANCELLED) throw error;
      record.wrong++;
    }
  }
  await client.end();
}

const beside = [standBy(), standBy()];
Promise.all(Array.from({ length: VICTIMS }, cancel))
  .then(() => {
    ending = true;
    return Promise.all(beside);
  })
  .then(() => console.log(JSON.stringify(record)));
