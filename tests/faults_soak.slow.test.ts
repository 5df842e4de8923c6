import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { send, until } from "./serve_fake.ts";
import { parsePrometheus, seriesValue } from "./support/prometheus.ts";
import { type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/** A process of `kiln serve` under requests of all kinds, one after the other and beside each other. */
const folder = mkdtempSync(join(tmpdir(), "kiln-soak-"));
let one: ServeProcess;
beforeAll(async () => {
  await writeTinyModel(join(folder, "model"));
  one = await serveProcess([`tiny=${join(folder, "model")}`]);
});
afterAll(() => {
  one.child.kill("SIGKILL");
  rmSync(folder, { recursive: true });
});

const words = ["once", "upon", "a time", "there was", "one little dog", "the sun", "was warm", "happy"];
const schema = {
  type: "object",
  properties: { name: { enum: ["dog", "sun"] }, old: { type: "integer", minimum: 0, maximum: 9 } },
  required: ["name", "old"],
};

/** The body of a request by its number; the same mix in each hundred. */
function requestOf(i: number): { path: string; json: object; status: number } {
  const prompt = Array.from({ length: 1 + (i % 13) }, (_, at) => words[(i * 7 + at * 3) % 8]).join(" ");
  const fields = { model: "tiny", max_tokens: 2 + (i % 7), temperature: i % 3 === 0 ? 0 : 0.8, seed: i };
  const messages = [{ role: "user", content: prompt }];
  const text = { path: "/v1/completions", json: { ...fields, prompt }, status: 200 };
  const chat = { path: "/v1/chat/completions", json: { ...fields, messages }, status: 200 };
  const of = (request: { path: string; json: object }, more: object, status = 200) => ({
    ...request,
    json: { ...request.json, ...more },
    status,
  });
  const at = i % 100;
  if (at === 0) return of(text, { temperature: "warm" }, 400);
  if (at < 10) return of(text, { logprobs: 3, echo: true });
  if (at < 15) return of(text, { n: 3, temperature: 1 });
  if (at < 20) return of(text, { guided_json: schema, max_tokens: 40 });
  if (at < 22) return of(text, { guided_regex: `[a-z]{1,${1 + (i % 9)}}`, max_tokens: 12 });
  if (at < 25) return of(text, { stop: ["a", "the"], repetition_penalty: 1.2, max_tokens: 12 });
  if (at < 50) return of(text, { stream: true, stream_options: { include_usage: true } });
  if (at < 60) return of(chat, { stream: true });
  if (at < 70) return chat;
  if (at < 72)
    return {
      path: "/v1/responses",
      json: { model: "tiny", input: prompt, max_output_tokens: 5 },
      status: 200,
    };
  if (at < 74) return { path: "/tokenize", json: { model: "tiny", prompt }, status: 200 };
  if (at < 75) return of(text, { prompt: Array.from({ length: 3000 }, () => 50) }, 400);
  return text;
}

/** Sends one request; each twentieth is left in the middle. */
async function ask(i: number): Promise<"done" | "left"> {
  const { path, json, status } = requestOf(i);
  if (i % 20 !== 7) {
    expect([i, (await send(one.url + path, { json })).status]).toEqual([i, status]);
    return "done";
  }
  const signal = AbortSignal.timeout(5 + (i % 40));
  const more = { max_tokens: 500, ignore_eos: true, stream: i % 40 === 7 };
  const long = { model: "tiny", prompt: `${words[i % 8]} ${i}`, ...more };
  return send(`${one.url}/v1/completions`, { json: long, signal }).then(
    () => "done",
    () => "left",
  );
}

/** Asks all of these, eight at a time. */
async function askAll(from: number, to: number): Promise<number> {
  let next = from;
  let left = 0;
  const worker = async () => {
    while (next < to) if ((await ask(next++)) === "left") left++;
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  return left;
}

const residentMib = () =>
  (Number(readFileSync(`/proc/${one.child.pid}/statm`, "utf8").split(" ")[1]) * 4096) / 2 ** 20;

/** Resident memory as it is, and without the garbage that V8 would still have left. */
async function measure(): Promise<[as: number, without: number]> {
  const asIs = residentMib();
  const before = one.output().length;
  one.child.kill("SIGUSR2");
  await until(() => one.output().includes("collected", before));
  return [asIs, residentMib()];
}

/** What runs, waits and is held. */
async function usage() {
  const metrics = parsePrometheus((await send(`${one.url}/metrics`)).text);
  const [running, waiting, cache] = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
  ].map((name) => seriesValue(metrics, `kiln:${name}`));
  return { running, waiting, cache, handles: seriesValue(metrics, "nodejs_active_handles_total") };
}

it.skipIf(process.platform !== "linux")(
  "F34: 10,000 requests of all kinds: the last thousand leave no more memory in use than the first did, to 5 %",
  async () => {
    expect((await usage()).cache).toBe(0);
    const sizes: [number, number][] = [];
    let left = 0;
    let handles = 0;
    for (let thousand = 0; thousand < 10; thousand++) {
      left += await askAll(thousand * 1000, (thousand + 1) * 1000);
      while ((await usage()).running > 0) await new Promise((resolve) => setTimeout(resolve, 20));
      sizes.push(await measure());
      if (thousand === 0) ({ handles } = await usage());
    }
    console.log(
      `MiB after each thousand: ${sizes.map((both) => both.map((size) => size.toFixed(1)).join("/")).join(" ")}; ${left} left early`,
    );
    const after = await usage();
    expect(after).toMatchObject({ running: 0, waiting: 0, cache: 0 });
    // Some of the eight connections may just have been replaced.
    expect(after.handles).toBeLessThan(handles + 9);
    expect(left).toBeGreaterThan(200);
    expect(sizes[9][0] / sizes[0][0]).toBeLessThan(1.05);
  },
  1_200_000,
);
