import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { atTemperature, hardVote, softVote, weightsOf } from "../serve/app/ensemble/vote.ts";
import type { ProvidersConfig } from "../serve/app/providers/config.ts";
import { install } from "../serve/app/providers/index.ts";
import { createServer, ModelPool, type Server } from "../serve/index.ts";
import { loadInto } from "../serve/loading.ts";
import { send } from "./serve_fake.ts";
import { labels, randomBert, texts, wordPieces } from "./support/word_pieces.ts";

/** Classifiers made here that answer together, behind a real socket. */
const folder = mkdtempSync(join(tmpdir(), "kiln-combined-"));
const models = new ModelPool();
let server: Server;
let url: string;
const fitted = [
  { temperature: 2, nll: 0.5 },
  { temperature: 0.5, nll: 0.9 },
  { temperature: 1, nll: 0.7 },
];
const settings = (classifiers: ProvidersConfig["classifiers"]): ProvidersConfig => ({
  ...{ providers: {}, ensembles: {}, routes: {}, budgets: {}, classifiers },
});
const members = ["a", "b", "c"];
/** Of the chain: between the confidences of its first member, so that it answers some of the texts and no others. */
let tau: number;

beforeAll(async () => {
  await openDevice();
  // The third has its labels in another order.
  const names = Object.values(labels.id2label);
  const turned = Object.fromEntries([...names].reverse().map((name, i) => [i, name]));
  const configs = {
    a: labels,
    b: labels,
    c: { ...labels, id2label: turned },
    other: { id2label: { 0: "x", 1: "y" } },
  };
  for (const [i, [name, config]] of Object.entries(configs).entries()) {
    const path = join(folder, name);
    await randomBert("ForSequenceClassification", config)
      .init(i + 5)
      .savePretrained(path, wordPieces());
    await loadInto(models, { name, aliases: [], path }, { dtype: "f32" }, 0);
  }
  install(
    models,
    settings({
      soft: { members, vote: "soft", tau: 0.5, fitted },
      hard: { members, vote: "hard", tau: 0.5 },
    }),
  );
  server = createServer({ models });
  url = await server.listen({ port: 0 });
  const sure = (await classified("a")).data.map(({ probs }) => Math.max(...atTemperature(probs, 2)));
  const sorted = sure.toSorted((x, y) => x - y);
  tau = (sorted[0]! + sorted.at(-1)!) / 2;
  install(
    models,
    settings({ chain: { members: ["a", "b"], vote: "chain", tau, fitted: fitted.slice(0, 2) } }),
  );
});
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

interface Answer {
  data: { label: string; probs: number[]; num_classes: number }[];
  usage: { prompt_tokens: number };
}
async function classified(model: string): Promise<Answer> {
  const { status, body } = await send(`${url}/classify`, { json: { model, input: texts } });
  expect(status).toBe(200);
  return body as Answer;
}

/** What each member says of each text, in the order of the first one's labels. */
async function each() {
  const names = Object.values(labels.id2label);
  const all = await Promise.all(members.map(classified));
  const probs = texts.map((_, text) =>
    all.map((answer, i) => (i === 2 ? answer.data[text]!.probs.toReversed() : answer.data[text]!.probs)),
  );
  return { names, all, probs };
}

describe("classifiers that answer together", () => {
  it("soft: the mean of what they hold for likely, by weight and temperature", async () => {
    const { names, all, probs } = await each();
    const answer = await classified("soft");
    for (const [text, own] of probs.entries()) {
      const scaled = own.map((one, i) => atTemperature(one, fitted[i]!.temperature));
      const expected = softVote(scaled, weightsOf(fitted.map(({ nll }) => nll)));
      const { probs: told, label } = answer.data[text]!;
      for (const [i, p] of told.entries()) expect(p).toBeCloseTo(expected[i]!, 5);
      expect(label).toBe(names[expected.indexOf(Math.max(...expected))]);
    }
    expect(answer.usage.prompt_tokens).toBe(all.reduce((sum, { usage }) => sum + usage.prompt_tokens, 0));
  });

  it("hard: the label of most, as shares of the votes", async () => {
    const { names, probs } = await each();
    for (const [text, { probs: told, label }] of (await classified("hard")).data.entries()) {
      const expected = hardVote(probs[text]!, [1 / 3, 1 / 3, 1 / 3]);
      for (const [i, p] of told.entries()) expect(p).toBeCloseTo(expected[i]!, 5);
      expect(label).toBe(names[expected.indexOf(Math.max(...expected))]);
    }
  });

  it("chain: the first that is sure, and of the rest the last", async () => {
    const { probs } = await each();
    const { data } = await classified("chain");
    let first = 0;
    for (const [text, { probs: told }] of data.entries()) {
      const [a, b] = [atTemperature(probs[text]![0]!, 2), atTemperature(probs[text]![1]!, 0.5)];
      const isSure = Math.max(...a) >= tau;
      first += Number(isSure);
      for (const [i, p] of told.entries()) expect(p).toBeCloseTo((isSure ? a : b)[i]!, 5);
    }
    expect([first > 0, first < texts.length]).toEqual([true, true]);
  });

  it("are in the list of models, refuse token ids, and go with their first member", async () => {
    const list = await send(`${url}/v1/models`, {});
    const own = (list.body as { data: { id: string; task: string; parent: string | null }[] }).data.find(
      ({ id }) => id === "soft",
    );
    expect(own).toMatchObject({ task: "classify", parent: "a" });
    const ids = await send(`${url}/classify`, { json: { model: "soft", input: [[5, 6]] } });
    expect([ids.status, (ids.body as { error: { message: string } }).error.message]).toEqual([
      400,
      "token ids are for one model; this is several: give texts",
    ]);
    const empty = await send(`${url}/classify`, { json: { model: "soft", input: [] } });
    expect(empty.status).toBe(400);
  });

  it("need members that are classifiers with the same labels", () => {
    const pair =
      (...names: string[]) =>
      () =>
        install(models, settings({ pair: { members: names, vote: "soft", tau: 0.5 } }));
    expect(pair("a", "nobody")).toThrow(
      "classifiers.pair names nobody, which is no classifier of this server",
    );
    expect(pair("a", "other")).toThrow("members need the same labels");
  });

  it("answer no more when a member is gone", async () => {
    await models.remove("c");
    const gone = await send(`${url}/classify`, { json: { model: "soft", input: texts } });
    expect(gone.status).toBe(503);
    await models.remove("a");
    const all = await send(`${url}/classify`, { json: { model: "soft", input: texts } });
    expect(all.status).toBe(404);
  });
});
