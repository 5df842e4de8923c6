import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { defineOp, findOp } from "../core/op.ts";
import { remembered } from "../core/platform/cache_node.ts";
import { scope } from "../core/scope.ts";
import { apply, type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { type TunedChoices, Tuner } from "../core/webgpu/tuner.ts";
import * as k from "../kernels/index.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-tuner-"));
const before = process.env.KILN_CACHE;
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
  process.env.KILN_CACHE = folder;
});
afterAll(() => {
  if (before === undefined) delete process.env.KILN_CACHE;
  else process.env.KILN_CACHE = before;
  rmSync(folder, { recursive: true });
  setDevice(null);
});

/** A copy that repeats its one dispatch as often as its option says: the search has something to find. */
const planned: (string | undefined)[] = [];
const copies = defineOp<Record<string, never>>({
  name: "tuner_test_copy",
  doc: "A copy.",
  infer: ([x]) => [{ shape: x!.shape, dtype: x!.dtype }],
  reference: ([x], _attrs, [y]) => y!.data.set(x!.data),
  variants: [
    {
      name: "repeated",
      file: "optim/squares.wgsl",
      tune: ({ inputs }) =>
        inputs[0].shape.length > 1
          ? {
              shapeClass: `rank ${inputs[0].shape.length}`,
              options: ["40", inputs[0].shape.length > 3 ? "broken" : "1"],
            }
          : null,
      plan: (call, option) => {
        planned.push(option);
        const copy = findOp("copy").variants.find((v) => v.when?.(call as never) ?? true)!;
        const plan = copy.plan(call as never);
        const passes = "passes" in plan ? plan.passes : [plan];
        const broken: Record<string, string> = option === "broken" ? { BODY: "not WGSL" } : {};
        const named = passes.map((p) => ({
          ...p,
          file: p.file ?? copy.file,
          defines: { ...p.defines, ...broken },
        }));
        return {
          passes: Array.from(
            { length: Number(option === "broken" ? 1 : (option ?? 40)) },
            () => named,
          ).flat(),
        };
      },
    },
  ],
  samples: () => [],
});

const device = (tuner: Tuner) => Object.assign(gpu, { tuner });
const step = () => compile((x: Tensor) => apply(copies, [x], {})[0]);
const x = () => tensor([1, 2, 3, 4, 5, 6, 7, 8], [2, 4]);

test("a prepared step takes the option that was quickest, and gives the same values", async () => {
  const tuner = new Tuner(true, remembered<TunedChoices>("tuning", "this adapter"));
  device(tuner);
  const run = step();
  await run.prepare(x());
  planned.length = 0;
  const { dispatches } = gpu.recorder;
  const y = scope(() => run(x()));
  expect(gpu.recorder.dispatches - dispatches).toBe(1);
  expect(planned).toEqual([]);
  expect(Array.from(await y.data())).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
});

test("the choice is there in the next process, and holds for its class of shapes", async () => {
  expect(readdirSync(path.join(folder, "tuning"))).toHaveLength(1);
  device(new Tuner(false, remembered<TunedChoices>("tuning", "this adapter")));
  planned.length = 0;
  scope(() => apply(copies, [tensor([1, 2], [1, 2])], {}));
  expect(planned).toEqual(["1"]);
});

test("another adapter, a file that is damaged and calls without a choice take the first option", async () => {
  const file = path.join(folder, "tuning", readdirSync(path.join(folder, "tuning"))[0]);
  for (const subject of ["another adapter", "this adapter"]) {
    if (subject === "this adapter") writeFileSync(file, "{");
    device(new Tuner(false, remembered<TunedChoices>("tuning", subject)));
    gpu.forgetLowered();
    planned.length = 0;
    scope(() => apply(copies, [x()], {}));
    scope(() => apply(copies, [tensor([1, 2])], {}));
    expect(planned).toEqual([undefined, undefined]);
  }
});

test("nothing is measured where measuring is off", async () => {
  device(new Tuner(false, null));
  const run = step();
  const { dispatches } = gpu.recorder;
  await run.prepare(tensor([1, 2, 3, 4], [1, 2, 2]));
  expect(gpu.recorder.dispatches).toBe(dispatches);
});

test("an option that does not compile leaves the choice to the variant, and hurts no other", async () => {
  const tuner = new Tuner(true, null);
  device(tuner);
  const run = step();
  const wide = () => tensor([1, 2, 3, 4], [1, 1, 2, 2]);
  await run.prepare(wide());
  planned.length = 0;
  expect(Array.from(await scope(() => run(wide())).data())).toEqual([1, 2, 3, 4]);
  await run.prepare(wide());
  expect(planned, "neither planned nor measured again").toEqual([]);
  await gpu.sync(); // the compiler's complaint is nobody's error
});

test("steps prepared side by side share the measurements, and both follow them", async () => {
  device(new Tuner(true, null));
  gpu.forgetLowered();
  const steps = [step(), step()];
  planned.length = 0;
  await Promise.all(steps.map((run) => run.prepare(x())));
  // Each traced before and after; both options measured once.
  expect(planned.filter((option) => option === "40")).toHaveLength(1);
  for (const run of steps) {
    const { dispatches } = gpu.recorder;
    scope(() => run(x()));
    expect(gpu.recorder.dispatches - dispatches).toBe(1);
  }
});
