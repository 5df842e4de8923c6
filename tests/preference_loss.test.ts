import { beforeAll, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import { openDevice } from "../kernels/index.ts";

beforeAll(async () => void (await openDevice()));

it("DPO with and without label smoothing, and IPO: losses, rewards and gradients are TRL's", async () => {
  const golden = new URL("./fixtures/golden", import.meta.url).pathname;
  const lines: string[] = [];
  const counts = await verify(golden, { filter: "preference", write: (line) => void lines.push(line) });
  expect(counts, lines.join("\n")).toEqual({ passed: 3, failed: 0, skipped: 0 });
});
