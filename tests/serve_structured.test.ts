import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { IDLE, idle, send, startServer, type TestServer } from "./serve_fake.ts";

/** Answers of a model of random logits that have the form which the request asks for. */
let server: TestServer;
beforeAll(async () => {
  server = await startServer({ maxModelLen: 512, blockCount: 2048 });
});
afterAll(() => server.server.close());

const base = { model: "tiny/fake", prompt: "once upon a time", max_tokens: 400, seed: 1 };
const post = (fields: object) => send(`${server.url}/v1/completions`, { json: { ...base, ...fields } });

const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 8 }, age: { type: "integer", minimum: 1, maximum: 99 } },
  required: ["name", "age"],
};
const isPerson = (text: string) => {
  const { name, age, ...rest } = JSON.parse(text);
  return typeof name === "string" && age >= 1 && age <= 99 && Object.keys(rest).length === 0;
};

describe("an answer of a form", () => {
  it.each<[string, object, (text: string) => boolean]>([
    [
      "response_format",
      { response_format: { type: "json_schema", json_schema: { name: "p", schema } } },
      isPerson,
    ],
    ["structured_outputs.json", { structured_outputs: { json: schema } }, isPerson],
    ["structured_outputs.json as text", { structured_outputs: { json: JSON.stringify(schema) } }, isPerson],
    ["guided_json", { guided_json: schema }, isPerson],
    [
      "structured_outputs.regex",
      { structured_outputs: { regex: "[a-c]{3}é?" } },
      (text) => /^[a-c]{3}é?$/.test(text),
    ],
    ["guided_regex", { guided_regex: "ab*c" }, (text) => /^ab*c$/.test(text)],
    [
      "guided_choice",
      { guided_choice: ["yes", "no", "yesterday"] },
      (text) => /^(yes|no|yesterday)$/.test(text),
    ],
    ["structured_outputs.choice", { structured_outputs: { choice: ["🙂"] } }, (text) => text === "🙂"],
  ])("is given by %s, at any temperature", async (_name, fields, fits) => {
    for (const rest of [{ temperature: 0 }, { temperature: 1, n: 8 }, { temperature: 2, top_k: 3, n: 4 }]) {
      const { status, body } = await post({ ...fields, ...rest });
      expect(status).toBe(200);
      for (const { text, finish_reason } of body.choices) {
        expect([text, finish_reason, fits(text)]).toEqual([text, "stop", true]);
      }
    }
    expect(idle(server.engine)).toEqual(IDLE);
  });

  it("is an object of any members with json_object, where it ends in time", async () => {
    const { body } = await post({
      response_format: { type: "json_object" },
      n: 16,
      logit_bias: biasOf('{}",:'),
    });
    const ended = body.choices.filter((one: { finish_reason: string }) => one.finish_reason === "stop");
    expect(ended.length).toBeGreaterThan(3);
    for (const { text } of ended) expect(typeof JSON.parse(text)).toBe("object");
  });

  it("does not change an answer without a form, beside it or with type text", async () => {
    const plain = (await post({})).body.choices[0].text;
    const [same, formed] = await Promise.all([
      post({ response_format: { type: "text" } }),
      post({ guided_regex: "[a-z]+\\." }),
    ]);
    expect(same.body.choices[0].text).toBe(plain);
    expect(formed.body.choices[0].text).toMatch(/^[a-z]+\.?$/);
  });
});

const biasOf = (chars: string) =>
  Object.fromEntries([...chars].map((char) => [String(server.tokenizer.tokenToId(char)), 3]));

describe("a form that cannot be had", () => {
  it.each<[string, object, RegExp]>([
    [
      "response_format",
      { response_format: { type: "json_schema", json_schema: { name: "x" } } },
      /schema is missing/,
    ],
    ["response_format", { response_format: { type: "grammar" } }, /response_format/],
    ["structured_outputs", { structured_outputs: { json: "{" } }, /is not JSON/],
    ["structured_outputs", { structured_outputs: { json: [] } }, /must be a JSON Schema/],
    ["guided_json", { guided_json: { type: "list" } }, /type/],
    ["guided_json", { guided_json: { not: {} } }, /not is not supported/],
    ["guided_json", { guided_json: { $ref: "#/$defs/none" } }, /names no schema/],
    ["guided_json", { guided_json: { anyOf: [{ type: "null" }, { $ref: "#" }] } }, /refers to itself/],
    [
      "guided_json",
      { guided_json: { type: "object", properties: { a: { $ref: "#" } }, required: ["a"] } },
      /cannot be ful/,
    ],
    ["guided_json", { guided_json: { type: "string", enum: [1] } }, /cannot be ful/],
    ["guided_regex", { guided_regex: "(" }, /without its \)/],
    ["guided_regex", { guided_regex: "(?=a)b" }, /ahead or behind/],
    ["guided_regex", { guided_regex: "(?<!a)b" }, /ahead or behind/],
    ["guided_regex", { guided_regex: "(?i)b" }, /begins with \(\? and is no/],
    // The schema that nothing fits is no missing schema.
    ["guided_json", { guided_json: false }, /cannot be ful/],
    [
      "response_format",
      { response_format: { type: "json_schema", json_schema: { name: "x", schema: false } } },
      /cannot be ful/,
    ],
    ["guided_regex", { guided_regex: "(a)\\1" }, /not supported/],
    ["guided_choice", { guided_choice: ["a"], guided_regex: "a" }, /second form/],
    ["min_tokens", { guided_choice: ["a"], min_tokens: 2 }, /cannot be combined/],
    ["ignore_eos", { guided_choice: ["a"], ignore_eos: true }, /cannot be combined/],
  ])("F13: is refused: %s %j", async (param, fields, message) => {
    const steps = server.runner.steps;
    const { status, body } = await post(fields);
    expect([status, body.error.param?.split(".")[0]]).toEqual([400, param]);
    expect(body.error.message).toMatch(message);
    expect(server.runner.steps).toBe(steps);
  });
});
