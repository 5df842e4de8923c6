import { expect, it } from "vitest";
import { routes } from "../serve/http/api/index.ts";
import { LIMITS } from "../serve/limits.ts";
import { fakeChatTokenizer, IDLE, idle, send, startServer } from "./serve_fake.ts";

/** KILN_MUTANTS=50000 is the design's number; it takes five times as long. */
const count = Number(process.env.KILN_MUTANTS ?? 10_000);
const first = Number(process.env.KILN_MUTANTS_FROM ?? 0);

/** Numbers from 0 to 1 that follow from the seed (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Values that are often handled wrongly. */
const ODD: readonly unknown[] = [
  ...[null, true, false, 0, -0, -1, 1, 2, 0.5, 1e-9, 1e308, -1e308, 2 ** 31, 2 ** 53, -(2 ** 63), 10 ** 20],
  ...[
    "",
    " ",
    "a",
    "\0",
    "é",
    "\u202e",
    "😀",
    "x".repeat(3000),
    "__proto__",
    "constructor",
    "<|im_end|>",
    "(",
    "[^",
  ],
  ...[[], {}, [[]], [{}], [""], [null], [0], [1e9], [-1], [0.5], { a: { b: [1] } }, { type: "object" }],
  ...[
    { type: "json_schema", json_schema: { schema: { $ref: "#" } } },
    { type: "function", function: {} },
  ],
  ...["1", "tiny/fake", { include_usage: 1 }, [["a"]], [1, "a"], { "-1": 1 }, { "5": 1e9 }],
];

/** Values that many a field takes. */
const PLAIN: readonly unknown[] = [null, true, false, 0, 1, 2, 0.5, "a", ["a"], "once upon", [5, 6], {}];

/** Valid values of fields, of which a body has some before it is changed. */
const VALID: Readonly<Record<string, readonly unknown[]>> = {
  ...{
    temperature: [0, 0.7, 2],
    top_p: [0.5, 1],
    top_k: [0, 5],
    min_p: [0.1],
    seed: [1, 2 ** 40],
    n: [1, 2],
  },
  ...{ stop: ["a", ["b", "c"]], stream: [true, false], frequency_penalty: [-1, 1], presence_penalty: [2] },
  ...{ repetition_penalty: [1.3], logit_bias: [{ "40": 5 }], ignore_eos: [true], user: ["u"], echo: [true] },
  ...{ bad_words: [["a"]], cache_salt: ["s"], return_token_ids: [true], skip_special_tokens: [false] },
};

interface Route {
  readonly path: string;
  readonly example: object;
  /** The fields that it knows. */
  readonly fields: readonly string[];
}

/** A valid body with one to three changes: a value, a field or an element more or less, or a byte. */
function mutant({ example, fields }: Route, random: () => number): string {
  const pick = <T>(list: readonly T[]) => list[Math.floor(random() * list.length)];
  const value = () => structuredClone(pick(random() < 0.5 ? PLAIN : ODD));
  const body = structuredClone(example) as Record<string, unknown>;
  for (const name of fields) {
    const values = VALID[name];
    if (values !== undefined && random() < 0.15) body[name] = structuredClone(pick(values));
  }
  const change = (of: Record<string, unknown> | unknown[]): void => {
    // Who asks for a model that is not there is refused before most else is looked at.
    const keys = Object.keys(of).filter((key) => key !== "model" || random() < 0.1);
    const at = (keys.length > 0 ? pick(keys) : "0") as keyof typeof of;
    const inner = of[at] as unknown;
    if (typeof inner === "object" && inner !== null && random() < 0.6) change(inner as never);
    else if (random() < 0.15) delete of[at];
    else of[at] = value() as never;
  };
  for (let changes = Math.ceil(random() ** 2 * 3); changes > 0; changes--) {
    if (random() < 0.5) body[pick(fields)] = value();
    else change(body);
  }
  let text = JSON.stringify(body);
  if (random() < 0.2) {
    const at = Math.floor(random() * text.length);
    text =
      text.slice(0, at) +
      pick(["", "\\", '"', "{", "]", "\\ud800", "\u0001", "1e", ","]) +
      text.slice(at + 1);
  }
  return text;
}

it("F11: mutants of valid bodies: accepted or refused, never a failure; then the same answer as before", async () => {
  const server = await startServer({ tokenizer: fakeChatTokenizer(), maxModelLen: 128, blockCount: 2000 });
  const known: Route[] = routes.flatMap(({ method, path, admin, schema, example }) => {
    if (method !== "POST" || admin || schema === undefined || example === undefined) return [];
    const fields = Object.keys(schema(LIMITS).shape);
    const own = fields.includes("max_tokens") ? { ...example, max_tokens: 4 } : example;
    return [{ path, fields, example: { ...own, model: "tiny/fake" } }];
  });
  expect(known.length).toBeGreaterThan(8);
  const asked = { model: "tiny/fake", prompt: "once upon", temperature: 0, logprobs: 2, max_tokens: 8 };
  const canonical = async () => (await send(`${server.url}/v1/completions`, { json: asked })).body.choices;
  const before = await canonical();
  const statuses = new Map<number, number>();
  let next = first;
  const worker = async () => {
    while (next < first + count) {
      const number = next++;
      const route = known[number % known.length];
      const body = mutant(route, randomOf(number));
      const headers = { "content-type": "application/json" };
      const { status } = await send(server.url + route.path, { method: "POST", headers, body });
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      if (status !== 200 && (status < 400 || status > 499))
        throw new Error(`${status} for KILN_MUTANTS_FROM=${number}: ${route.path} ${body}`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  console.log(`${count} from ${first} on:`, [...statuses]);
  expect(server.errors).toEqual([]);
  expect(statuses.get(200)).toBeGreaterThan(count / 25);
  expect(statuses.get(400)).toBeGreaterThan(count / 10);
  expect(await canonical()).toEqual(before);
  expect(idle(server.engine)).toEqual(IDLE);
  await server.server.close();
}, 600_000);
