import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EngineProcess } from "../serve/process/engine_process.ts";
import { endWith, type Started, script, start, task } from "./support/engine_process.ts";
import { AGAIN, PATHS } from "./support/fake_engine_model.ts";

describe("when the process of fake engines ends", () => {
  let started: Started;
  beforeAll(async () => {
    started = await start({ stepMs: 400 });
  });
  afterAll(() => started.close());

  it("one that does not answer any more is killed", async () => {
    await endWith("block", started);
    expect(started.lines[0]).toContain("it did not respond");
  });

  it("so does one that loses its device", async () => {
    await endWith("lose", started);
    expect(started.lines[2]).toContain("the GPU device was lost: on request");
  });

  it("is given up after three that fail", async () => {
    const lines: string[] = [];
    const engines = new EngineProcess({ script, say: (line) => lines.push(line) });
    const { port } = await engines.load(task(PATHS.diesAgain));
    process.env[AGAIN] = "1";
    try {
      process.kill(engines.pid!, "SIGKILL");
      const { message } = await engines.gaveUp;
      expect(message).toContain("the engines cannot be started again, 3 processes failed: ");
      expect(message).toContain("SIGKILL");
    } finally {
      delete process.env[AGAIN];
    }
    expect([lines.length, engines.pid, port.state]).toEqual([1, null, "starting"]);
    await engines.close();
  });
});
