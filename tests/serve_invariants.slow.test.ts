import { expect, it } from "vitest";
import { randomTraffic } from "./support/serve_traffic.ts";

it("no block is lost, shared in error or written while shared in 100,000 random operations", () => {
  const first = Math.floor(Math.random() * 2 ** 31);
  let hits = 0;
  for (let i = 0; i < 50; i++) hits += randomTraffic(first + i, 2000).hits;
  expect(hits).toBeGreaterThan(1000);
});
