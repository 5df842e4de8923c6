import { expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { Schedules } from "./support/serve_schedules.ts";

it("20 random schedules change no token and no bit of a log probability", async () => {
  await openDevice();
  const schedules = new Schedules(12, [8, 16]);
  await schedules.prepare();
  await schedules.checkWhole();
  for (let seed = 0; seed < 20; seed++) await schedules.run(seed);
  for (const count of Object.values(schedules.counts)) expect(count).toBeGreaterThan(0);
  schedules.close();
});
