import { expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { findNeedles, Schedules } from "./support/serve_schedules.ts";

it("500 random schedules change no token and no bit of a log probability", async () => {
  await openDevice();
  const schedules = new Schedules(48);
  await schedules.prepare();
  await schedules.checkWhole();
  const first = Math.floor(Math.random() * 2 ** 31);
  for (let i = 0; i < 500; i++) await schedules.run(first + i);
  for (const count of Object.values(schedules.counts)) expect(count).toBeGreaterThan(100);
  schedules.close();
}, 900_000);

it("I6: one request among long ones, at any place of 128 trials, has the bits that it has alone", async () => {
  await openDevice();
  const { places, mostRows } = await findNeedles(128, 6);
  expect(places).toBeGreaterThan(12);
  expect(mostRows).toBeGreaterThan(100);
});
