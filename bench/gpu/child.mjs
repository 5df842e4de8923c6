// Times rows of the GPU table in a process of its own: node child.mjs '{"quick":false,"ms":500,"skip":["row", …]}' prints a
// line of JSON for the head of the run, then {begin} and {result} for each row. {"first":true} times a first step alone.
import { register } from "tsx/esm/api";

register();
const { openDevice } = await import("../../kernels/index.ts");
const { beginRun } = await import("../report.ts");
const { timeRow } = await import("../time_row.ts");
const { firstStep, gpuRows } = await import("./rows.ts");

const { quick, ms, skip = [], filter = "", first = false } = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const device = await openDevice();
const rows = first ? [firstStep(quick)] : gpuRows(quick);
// A first step comes before anything else has compiled or warmed the adapter.
const head = first ? null : await beginRun(device, quick, ms);
if (head) say({ head });
for (const row of rows) {
  if (skip.includes(row.name) || !row.name.includes(filter)) continue;
  say({ begin: row.name });
  const roof = head?.roofline ?? { gflops: Infinity, gb_per_s: Infinity };
  const failed = (error) => ({ name: row.name, by: "kiln", unit: row.unit, error: firstLine(error) });
  const result = await timeRow(row, device, roof, ms).catch(failed);
  say({ result: { ...result, task: row.task, role: row.role, precision: row.precision } });
}
process.exit(0);

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0];
}
