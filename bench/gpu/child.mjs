// Times rows of the GPU table in a process of its own: node child.mjs '{"quick":false,"ms":500,"skip":["row", …]}' prints a
// line of JSON for the head of the run, then {begin} and {result} for each row. {"first":true} times a first step alone.
// A lost device ends the process with its message.
import { load } from "../../bin/load.mjs";

const { openDevice } = await load("kernels/index");
const { beginRun } = await load("bench/report");
const { firstStep, gpuRows } = await load("bench/rows/index");
const { timeRows } = await load("bench/gpu/time_rows");

const { quick, ms, skip = [], filter = "", first = false } = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const device = await openDevice();
// A first step comes before anything else has compiled or warmed the adapter.
const head = first ? null : await beginRun(device, quick, ms);
if (head) say({ head });
const rows = first
  ? [firstStep(quick)]
  : gpuRows(quick).filter(({ name }) => name.includes(filter) && !skip.includes(name));
const roof = head?.roofline ?? { gflops: Infinity, gb_per_s: Infinity };
await timeRows(rows, device, roof, ms, say);
process.exit(0);
