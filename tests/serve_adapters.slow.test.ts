import { expect, it, vi } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { AdapterServer } from "./support/adapter_server.ts";
import { llamaAdapters } from "./support/tiny_adapters.ts";

it("F32: adapters come and go 200 times under traffic, and leave no memory behind", async () => {
  const gpu = await openDevice();
  vi.spyOn(process.stderr, "write").mockReturnValue(true);
  const on = new AdapterServer();
  const { odd, stable, patterns } = llamaAdapters;
  const before = gpu.bytesInUse;
  await on.open({ odd, stable, patterns }, ["patterns"]);
  const sizes: number[] = [];
  for (let i = 0; i < 40; i++) {
    await on.comeAndGo(["odd", "stable"], 5);
    sizes.push(gpu.bytesInUse);
  }
  // Some memory is held for a moment after a step, and a size of step that requests meet for the first time holds its own from
  // then on, which may be late; what a load or an unload leaves behind would be more with almost every look.
  const held = sizes.map((_, i) => Math.min(...sizes.slice(i)));
  const grown = held.filter((size, i) => i > 10 && size > held[i - 1]);
  expect(grown.length, sizes.join()).toBeLessThan(4);
  await on.models.remove("base");
  expect(gpu.bytesInUse).toBe(before);
  await on.close();
  vi.restoreAllMocks();
}, 900_000);
