import { expect, it, vi } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { AdapterServer } from "./support/adapter_server.ts";
import { llamaAdapters } from "./support/tiny_adapters.ts";

it("F32: adapters come and go 200 times under traffic, and leave no memory behind", async () => {
  const gpu = await openDevice();
  vi.spyOn(process.stderr, "write").mockReturnValue(true);
  const on = new AdapterServer();
  const { odd, stable, patterns } = llamaAdapters;
  await on.open({ odd, stable, patterns }, ["patterns"]);
  const sizes: number[] = [];
  for (let i = 0; i < 40; i++) {
    await on.comeAndGo(["odd", "stable"], 5);
    sizes.push(gpu.bytesInUse);
  }
  // Some memory is held for a moment after a step; a leak would grow for ever.
  const least = (from: number) => Math.min(...sizes.slice(from, from + 10));
  expect(least(30), sizes.join()).toBe(least(10));
  await on.close();
  vi.restoreAllMocks();
}, 900_000);
