// Holds transactions to the contract before they are published, in a program that is not Python.
//
//   npm install && node validate.mjs < transactions.jsonl
//
// Prints one line per transaction: "ok", or the field and the rule it breaks. Exit code 1 if there was a bad one.
// A record that passes goes to Kinesis as it is: PutRecords, PartitionKey = card_id.
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import Ajv2020 from "ajv/dist/2020.js";

const SCHEMA = new URL("../../../schemas/transaction.schema.json", import.meta.url);
const MAX_CLOCK_AHEAD_MS = 5 * 60_000;
const UNPRINTABLE = /[\p{C}\p{Z}]/u; // the space alone is printable
const PRINTABLE_FIELDS = ["merchant_id", "merchant_category", "device_id"];

const matches = new Ajv2020({ strict: true, strictTypes: false }).compile(JSON.parse(readFileSync(SCHEMA, "utf8")));

/** The first broken rule as {field, rule}, or null. `nowMs` is UTC epoch milliseconds. */
export function brokenRule(transaction, nowMs) {
  if (!matches(transaction)) {
    const { instancePath, keyword, params } = matches.errors[0];
    return { field: params.missingProperty ?? (instancePath.slice(1).split("/")[0] || "$"), rule: keyword };
  }
  // What a schema cannot say. The table of exchange rates stays with the consumer: rule `no_rate` is its to find.
  if (transaction.event_time_ms > nowMs + MAX_CLOCK_AHEAD_MS) return { field: "event_time_ms", rule: "future_time" };
  for (const [name, other] of [["latitude", "longitude"], ["longitude", "latitude"]]) {
    if (transaction[name] == null && transaction[other] != null) return { field: name, rule: "missing" };
  }
  for (const field of PRINTABLE_FIELDS) {
    if (UNPRINTABLE.test((transaction[field] ?? "").replaceAll(" ", ""))) return { field, rule: "bad_characters" };
  }
  const { ip } = transaction;
  return ip != null && (!isIP(ip) || ip.includes("%")) ? { field: "ip", rule: "bad_address" } : null;
}

async function main() {
  let bad = 0;
  for await (const line of createInterface({ input: process.stdin })) {
    let broken;
    try {
      broken = brokenRule(JSON.parse(line), Date.now());
    } catch {
      broken = { field: "$", rule: "not_json" };
    }
    bad += broken ? 1 : 0;
    console.log(broken ? `${broken.field}: ${broken.rule}` : "ok");
  }
  process.exitCode = bad ? 1 : 0;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
