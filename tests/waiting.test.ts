import { describe, expect, it } from "vitest";
import { awaitIdle } from "../core/webgpu/waiting.ts";

/** Looks for the end of a wait at every turn of the event loop, as Dawn's Node binding does; counts the looks. */
function looking(ms: number): { ended: Promise<number> } {
  const end = performance.now() + ms;
  let looks = 0;
  const ended = new Promise<number>((resolve) => {
    const look = () => {
      looks++;
      if (performance.now() >= end) resolve(looks);
      else setImmediate(look);
    };
    setImmediate(look);
  });
  return { ended };
}

describe("waiting for a software adapter", () => {
  it("leaves the processor to the shaders, and still looks every few milliseconds", async () => {
    const busy = await looking(200).ended;
    const rested = await awaitIdle(looking(200).ended);
    expect(rested).toBeLessThan(busy / 20);
    expect(rested).toBeGreaterThan(20);
  });

  it("sleeps no longer for earlier waits, nor for several at once", async () => {
    for (let i = 0; i < 200; i++) await awaitIdle(Promise.resolve(i));
    const several = [looking(100), looking(100), looking(100)].map(({ ended }) => awaitIdle(ended));
    for (const looks of await Promise.all(several)) expect(looks).toBeGreaterThan(10);
  });

  it("hands on values and errors, and lets timers run", async () => {
    expect(await awaitIdle(Promise.resolve(7))).toBe(7);
    await expect(awaitIdle(Promise.reject(new Error("lost")))).rejects.toThrow("lost");
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    await awaitIdle(looking(120).ended);
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(3);
  });
});
