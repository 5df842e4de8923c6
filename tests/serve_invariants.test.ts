import { expect, it } from "vitest";
import { randomTraffic } from "./support/serve_traffic.ts";

it("no block is lost, shared in error or written while shared in 10,000 random operations", () => {
  const total = { steps: 0, hits: 0, preempted: 0, evicted: 0, finished: 0 };
  const first = Math.floor(Math.random() * 2 ** 31);
  for (let i = 0; i < 10; i++) {
    const counts = randomTraffic(first + i, 1000);
    for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += counts[name];
  }
  for (const count of Object.values(total)) expect(count).toBeGreaterThan(100);
});
