import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { wilsonInterval } from "../core/statistics/significance.ts";
import { Registry } from "../models/registry/registry.ts";
import type { Application } from "../serve/app/application.ts";
import { armOf, bucket } from "../serve/app/experiments/bucket.ts";
import { SequentialTest } from "../serve/app/experiments/sequential.ts";
import type { OpenStore } from "../serve/store/index.ts";
import { facts } from "./support/registry_facts.ts";
import { type Script, scripted } from "./support/scripted_answers.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-ab-"));
const registry = new Registry(path.join(folder, "registry"));
let application: Application;
let source: Script;
let store: OpenStore;
let loaded: string[];
let count = 0;

async function addVersion(name = "assistant", more: object = {}): Promise<void> {
  const model = path.join(folder, `source-${count++}`);
  mkdirSync(model);
  writeFileSync(path.join(model, "config.json"), "{}");
  await registry.add(name, model, { ...facts, ...more });
}

beforeAll(async () => {
  for (let i = 0; i < 3; i++) await addVersion();
  await addVersion("other");
});
beforeEach(async () => {
  loaded = [];
  const keepArms = async (versions: readonly string[]) => {
    loaded = [...versions];
    source.absent = ["assistant@3", "assistant@2"].filter((one) => !versions.includes(one));
  };
  ({ application, source, store } = await scripted(path.join(folder, `${count++}`, "kiln.db"), {
    ...{ registry, keepArms },
  }));
  await registry.alias("assistant", "prod", 1);
  source.versions = { assistant: "assistant@1", "assistant@prod": "assistant@1" };
  source.absent = ["assistant@3", "assistant@2"];
  source.says = ["fine"];
});
afterEach(async () => {
  await application.close();
  vi.useRealTimers();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const start = (more: object = {}) =>
  application.experiments.start({
    ...{ name: "warmer", control: "assistant@prod", treatment: "assistant@3" },
    ...more,
  });

/** Asks as a user, and waits for the answer. */
async function ask(user: string, model = "assistant", conversation: string | null = null) {
  await application.users.ensure(user);
  const accepted = await application.conversing.send(user, {
    ...{ conversation_id: conversation, text: "hello", model },
  });
  const { ended } = await application.conversing.follow(user, accepted.message_id, 0, () => {});
  await ended;
  return { ...accepted, row: await application.chats(user).message(accepted.message_id) };
}

describe("an experiment", () => {
  it("answers each user by one arm, which the hash gives, and keeps who answered", async () => {
    const { id, arms } = await start();
    expect(loaded).toEqual(["assistant@3"]);
    expect(arms.map(({ name }) => name)).toEqual(["assistant@1", "assistant@3"]);
    const users = Array.from({ length: 40 }, (_, i) => `local/u${i}`);
    for (const user of users) {
      const arm = ["assistant@1", "assistant@3"][armOf(bucket(id, user), [0.5, 0.5])]!;
      const first = await ask(user);
      const again = await ask(user, "assistant@prod", first.conversation_id);
      for (const { arm: told, model, row } of [first, again]) {
        expect([told, model, row.experiment_arm]).toEqual(
          [`warmer/${arm}`, "assistant", `warmer/${arm}`].with(1, model),
        );
        expect(source.started.at(-1)!.request.model).toBe(arm);
      }
    }
    const exposed = await store.all<{ unit_id: string; arm: string }>("SELECT unit_id, arm FROM exposure");
    expect(exposed).toHaveLength(users.length);
    const report = await application.experiments.get("warmer");
    expect(report.arms.map((one) => one.exposed)).toEqual(
      arms.map(({ name }) => exposed.filter(({ arm }) => arm === name).length),
    );
    // A version that is asked for by its number is that version, and other models take no part.
    expect((await ask("local/u0", "assistant@1")).arm).toBeNull();
    expect((await ask("local/u0", "other")).arm).toBeNull();
  });

  it("by conversation gives one user both arms, and each conversation one", async () => {
    const { id } = await start({ unit: "conversation", split: 0.3 });
    const seen = new Set<string>();
    for (let i = 0; i < 30; i++) {
      const { conversation_id, arm } = await ask("local/ada");
      expect(arm).toBe(
        `warmer/${["assistant@1", "assistant@3"][armOf(bucket(id, conversation_id), [0.7, 0.3])]}`,
      );
      expect((await ask("local/ada", "assistant", conversation_id)).arm).toBe(arm);
      seen.add(arm!);
    }
    expect(seen.size).toBe(2);
  });

  it("exposes nobody by what never answered, and is not asked where an arm does not answer", async () => {
    await start();
    source.says = null;
    await application.users.ensure("local/ben");
    const next = source.started.length + 1;
    const { message_id } = await application.conversing.send("local/ben", {
      ...{ conversation_id: null, text: "hi", model: "assistant" },
    });
    (await source.next(next)).fail(new Error("broken"));
    const { ended } = await application.conversing.follow("local/ben", message_id, 0, () => {});
    await ended;
    expect(await store.all("SELECT 1 FROM exposure")).toEqual([]);
    source.says = ["fine"];
    source.absent = ["assistant@3"];
    expect((await ask("local/ben")).arm).toBeNull();
    // The alias went to another version by hand: nobody takes part.
    source.absent = [];
    source.versions = { assistant: "assistant@2" };
    expect((await ask("local/ben")).arm).toBeNull();
  });

  it("whose arm has gone since is answered by what people asked for, and that is no exposure", async () => {
    await start({ split: 0.99 });
    const user = Array.from({ length: 50 }, (_, i) => `local/x${i}`)[0]!;
    source.gone = "assistant@3";
    const { row, arm } = await ask(user);
    expect(arm).toBe("warmer/assistant@3");
    expect([row.content, row.experiment_arm]).toEqual(["fine", null]);
    expect(await store.all("SELECT 1 FROM exposure")).toEqual([]);
  });

  it("counts one vote a unit and day, the last, and what else its arms did", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: Date.UTC(2026, 10, 1, 12) });
    await start();
    const votes: { arm: string; day: number; up: boolean }[] = [];
    const stops: Record<string, number> = {};
    const answers: Record<string, number> = {};
    for (let day = 0; day < 3; day++) {
      vi.setSystemTime(Date.UTC(2026, 10, 1 + day, 12));
      for (let i = 0; i < 12; i++) {
        const user = `local/u${i}`;
        const first = await ask(user);
        const again = await ask(user, "assistant", first.conversation_id);
        const up = (i + day) % 3 > 0;
        await application.chats(user).rate({ message_id: first.message_id, rating: up ? -1 : 1 });
        vi.advanceTimersByTime(1000);
        await application.chats(user).rate({ message_id: again.message_id, rating: up ? 1 : -1 });
        const arm = first.arm!.slice("warmer/".length);
        votes.push({ arm, day, up });
        answers[arm] = (answers[arm] ?? 0) + 2;
        if (i % 4 === 0) {
          const { message_id } = await application.conversing.regenerate(user, again.message_id, {});
          const { ended } = await application.conversing.follow(user, message_id, 0, () => {});
          await ended;
          stops[arm] = (stops[arm] ?? 0) + 1;
          answers[arm]! += 1;
        }
      }
    }
    const report = await application.experiments.get("warmer");
    const of = (arm: string, until: number) => {
      const own = votes.filter((vote) => vote.arm === arm && vote.day <= until);
      return { successes: own.filter(({ up }) => up).length, count: own.length };
    };
    const [control, treatment] = ["assistant@1", "assistant@3"];
    for (const arm of report.arms) {
      const { successes, count } = of(arm.name, 2);
      expect([arm.up, arm.rated, arm.rate]).toEqual([successes, count, successes / count]);
      expect([arm.low, arm.high]).toEqual(wilsonInterval(successes, count));
      expect(arm.regenerate_rate).toBe((stops[arm.name] ?? 0) / answers[arm.name]!);
      expect([arm.stop_rate, arm.error_rate]).toEqual([0, 0]);
      expect(arm.ttft_p95_ms).toEqual(expect.any(Number));
    }
    const test = new SequentialTest();
    const looks = [0, 1, 2].map((day) => test.look(of(control!, day), of(treatment!, day)));
    expect(report.history.map(({ difference }) => difference)).toEqual(
      looks.slice(0, 2).map(({ difference }) => difference),
    );
    expect([report.result.difference, report.result.p_value]).toEqual([
      looks[2]!.difference,
      looks[2]!.pValue,
    ]);
  });

  it("promoted moves the alias and lets its versions go; one that was split wrongly decides nothing", async () => {
    await start();
    await expect(registry.remove("assistant", 3)).rejects.toThrow("the experiment warmer");
    await expect(start({ name: "second" })).rejects.toMatchObject({
      status: 409,
      code: "experiment_running",
    });
    for (let i = 0; i < 60; i++)
      await store.run("INSERT INTO exposure VALUES ((SELECT id FROM experiment), ?, 'assistant@1', 1)", [
        `u${i}`,
      ]);
    await expect(application.experiments.promote("warmer", "assistant@3")).rejects.toMatchObject({
      ...{ status: 409, code: "sample_ratio_mismatch" },
    });
    expect((await registry.model("assistant")).aliases).toEqual({ prod: 1 });
    await store.run("DELETE FROM exposure");
    await expect(application.experiments.promote("warmer", "assistant@2")).rejects.toMatchObject({
      status: 422,
    });
    const done = await application.experiments.promote("warmer", "assistant@3");
    expect(done).toMatchObject({
      ...{ state: "promoted", decision: expect.stringContaining("assistant@prod is assistant@3") },
    });
    expect((await registry.model("assistant")).aliases).toEqual({ prod: 3 });
    expect(loaded).toEqual([]);
    await expect(application.experiments.stop("warmer")).rejects.toMatchObject({ code: "experiment_ended" });
    await registry.alias("assistant", "prod", 1);
    expect(await registry.referrers("assistant", 3)).toEqual([]);
    expect((await ask("local/ada")).arm).toBeNull();
  });

  it.each([
    [{ treatment: "assistant@prod" }, 422, "both arms are assistant@1"],
    [{ treatment: "other@1" }, 422, "no version of assistant"],
    [{ treatment: "assistant@9" }, 404, "assistant@9 does not exist"],
    [{ treatment: "no such name!" }, 422, "names no version"],
    [{ control: "other@1", treatment: "other@1" }, 422, "both arms"],
  ])("with arms %j is refused in words", async (arms, status, words) => {
    await expect(start(arms)).rejects.toMatchObject({ status, message: expect.stringContaining(words) });
    expect(await store.all("SELECT 1 FROM experiment")).toEqual([]);
  });

  it("whose name is taken is refused, and leaves no version in use", async () => {
    await start();
    await application.experiments.stop("warmer");
    await expect(start()).rejects.toMatchObject({ status: 409, code: "name_taken" });
    expect(await registry.referrers("assistant", 3)).toEqual([]);
  });
});
