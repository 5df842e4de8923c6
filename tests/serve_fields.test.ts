import { type Encoding, Tokenizer as Library } from "tokenizers";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { StreamDecoder } from "../tokenizer/index.ts";
import { send, startServer, type TestServer } from "./serve_fake.ts";

const base = { model: "tiny/fake", prompt: "once upon a time", max_tokens: 3, temperature: 0 };

let server: TestServer;
let strict: TestServer;
beforeAll(async () => {
  server = await startServer();
  strict = await startServer({ strict: true });
});
afterAll(async () => {
  await server.server.close();
  await strict.server.close();
});

const post = (fields: object, to = server) =>
  send(`${to.url}/v1/completions`, { json: { ...base, ...fields } });
const postText = (body: string) =>
  send(`${server.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });

describe("fields of other servers", () => {
  it.each<[string, unknown]>([
    ["max_completion_tokens", 5],
    ["n_predict", -1],
    ["num_predict", 5],
    ["max_new_tokens", 5],
    ["messages", [{ role: "user", content: "hi" }]],
    ["tools", [{ type: "function" }]],
    ["suffix", "end"],
    ["top_logprobs", 2],
    ["n_probs", 2],
    ["stop_sequences", ["x"]],
    ["repeat_penalty", 1.1],
    ["repeat_last_n", 64],
    ["typical_p", 0.9],
    ["mirostat", 2],
    ["xtc_probability", 0.5],
    ["dry_multiplier", 0.8],
    ["dynatemp_range", 0.5],
    ["top_n_sigma", 1],
    ["samplers", ["top_k"]],
    ["do_sample", false],
    ["use_beam_search", true],
    ["length_penalty", 0.8],
    ["grammar", 'root ::= "a"'],
    ["json_schema", { type: "object" }],
    // As in llama.cpp: any JSON, and none of its samplers.
    ["json_schema", {}],
    ["samplers", []],
    ["min_new_tokens", 4],
    ["detokenize", false],
    ["custom_token_bans", "3"],
    ["repetition_penalty_range", 64],
    ["temperature_last", true],
    ["return_tokens_as_token_ids", true],
    ["lora", [{ id: 0, scale: 1 }]],
    ["options", { temperature: 0 }],
    ["extra_body", { top_k: 1 }],
    ["t_max_predict_ms", 100],
  ])("%s: %j is refused by name", async (name, value) => {
    const steps = server.runner.steps;
    const { status, body } = await post({ [name]: value });
    expect([status, body.error.param, body.error.code]).toEqual([400, name, "unsupported_parameter"]);
    expect(body.error.message).toMatch(new RegExp(`^${name} is not supported: .{8}`));
    expect(server.runner.steps).toBe(steps);
  });

  it("what asks for nothing passes, strictly too, and changes nothing", async () => {
    const { choices } = (await post({})).body;
    const neutral = {
      ...{ user: "u", metadata: { a: "b" }, store: true, service_tier: "auto", request_id: "r" },
      ...{ cache_prompt: false, id_slot: 3, cache_salt: "s", prompt_cache_key: "k" },
      ...{ typical_p: 1, mirostat: 0, mirostat_tau: 5, mirostat_eta: 0.1, top_n_sigma: -1, tfs_z: 1 },
      ...{ dry_multiplier: 0, dry_base: 1.75, xtc_probability: 0, xtc_threshold: 0.1, repeat_penalty: 1 },
      ...{ dynatemp_range: 0, dynatemp_exponent: 1, length_penalty: 1, use_beam_search: false },
      ...{ response_format: { type: "text" }, grammar: "", json_schema: null, guided_json: null, suffix: "" },
      ...{ detokenize: true, min_new_tokens: 0, logprob_start_len: -1 },
      ...{
        tools: [],
        tool_choice: "none",
        lora: [],
        bad_words: [],
        options: {},
        n_probs: 0,
        do_sample: true,
      },
      ...{ add_special_tokens: true, min_p: 0, top_k: -1, repetition_penalty: 1, n_predict: null },
    };
    for (const to of [server, strict]) expect((await post(neutral, to)).body.choices).toEqual(choices);
    const streamed = await post({ stream: true, stream_options: { include_obfuscation: false } }, strict);
    expect(streamed.status).toBe(200);
  });

  it("what nobody knows is ignored, and refused by a strict server", async () => {
    for (const name of ["temprature", "__proto__", "constructor", "toString", "x".repeat(5000)]) {
      const text = `{"model":"tiny/fake","prompt":"a","max_tokens":1,${JSON.stringify(name)}:1}`;
      expect([name, (await postText(text)).status]).toEqual([name, 200]);
      const refused = await send(`${strict.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: text,
      });
      expect([refused.status, refused.body.error.code]).toEqual([400, "unknown_parameter"]);
      expect(name.startsWith(refused.body.error.param)).toBe(true);
      expect(refused.text.length).toBeLessThan(3000);
    }
  });

  it("add_special_tokens: false leaves out what the tokenizer puts before a text", async () => {
    const encode = vi.spyOn(server.tokenizer, "encodeUpTo");
    await post({ add_special_tokens: false });
    await post({ prompt: ["a", "b"] });
    expect(encode.mock.calls.map(([, , options]) => options)).toEqual([
      { addSpecialTokens: false },
      { addSpecialTokens: true },
      { addSpecialTokens: true },
    ]);
    encode.mockRestore();
    expect((await post({ add_special_tokens: "no" })).body.error.param).toBe("add_special_tokens");
  });
});

describe("other routes refuse what they lack", () => {
  const bodies: Record<string, object> = {
    "/v1/chat/completions": { messages: [{ role: "user", content: "hi" }] },
    "/v1/responses": { input: "hi" },
    "/api/generate": { prompt: "hi" },
  };

  it.each<[path: string, name: string, value: unknown, advice: string]>([
    ["/v1/chat/completions", "functions", [{ name: "f" }], "use tools"],
    ["/v1/chat/completions", "modalities", ["text", "audio"], "text only"],
    ["/v1/chat/completions", "web_search_options", {}, "text only"],
    ["/v1/chat/completions", "chat_template", "x", "change it there"],
    ["/v1/responses", "n", 2, "ask again"],
    ["/v1/responses", "response_format", { type: "json_object" }, "text.format"],
    ["/v1/responses", "return_token_ids", true, "/v1/chat/completions"],
    ["/api/generate", "stop", "x", "options"],
    ["/api/generate", "temperature", 0, "options"],
    ["/api/generate", "n", 3, "ask again"],
    ["/api/generate", "guided_json", { type: "object" }, "use format"],
  ])("%s: %s %j", async (path, name, value, advice) => {
    const json = { model: "tiny/fake", ...bodies[path], [name]: value };
    const { status, text } = await send(`${server.url}${path}`, { json });
    expect([status, text]).toEqual([400, expect.stringContaining(`${name} is not supported: `)]);
    expect(text).toContain(advice);
  });

  it.each([
    ["/v1/chat/completions", "modalities", ["text"]],
    ["/v1/chat/completions", "functions", []],
    ["/v1/responses", "n", 1],
    ["/v1/responses", "response_format", { type: "text" }],
  ])("%s: %s %j asks for nothing", async (path, name, value) => {
    const json = { model: "tiny/fake", ...bodies[path], [name]: value };
    const { text } = await send(`${server.url}${path}`, { json });
    // The model has no chat template.
    expect(text).toContain("no chat template");
  });
});

describe("a wrong value is told in words", () => {
  it.each<[fields: object, message: string]>([
    [{ model: undefined }, "model: is missing"],
    [{ model: "" }, "model: must not be empty"],
    [{ model: 5 }, "model: must be a text, not 5"],
    [{ max_tokens: "5" }, "max_tokens: must be a number, not a text"],
    [{ max_tokens: 1.5 }, "max_tokens: must be a whole number, not 1.5"],
    [{ max_tokens: -1 }, "max_tokens: must be at least 0"],
    [{ max_tokens: 1e300 }, "max_tokens: is too large"],
    [{ n: 129 }, "n: must be at most 128"],
    [{ n: null, echo: 1 }, "echo: must be true or false, not 1"],
    [{ stop: ["a", ""] }, "stop.1: must not be empty"],
    [{ stop: "a".repeat(257) }, "stop: must have at most 256 characters"],
    [{ logit_bias: [1] }, "logit_bias: must be an object, not a list"],
    [{ logit_bias: { 5: null } }, "logit_bias.5: must be a number, not null"],
    [{ stop_token_ids: {} }, "stop_token_ids: must be a list, not an object"],
    [
      { response_format: { type: "x" } },
      'response_format.type: must be "text", "json_object" or "json_schema"',
    ],
    [{ response_format: { type: "json_schema" } }, "response_format.json_schema: is missing"],
    [{ structured_outputs: { grammar: "x" } }, "structured_outputs: has no field grammar"],
  ])("%j", async (fields, message) => {
    const { status, body } = await post(fields);
    expect([status, body.error.message]).toEqual([400, message]);
  });
});

describe("bodies are measured before they are walked", () => {
  const head = '"model":"tiny/fake","prompt":"a","max_tokens":1';
  const many = (count: number, item: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => item(i));

  it.each<[string, () => string]>([
    ["300,000 unknown keys", () => `{${head},${many(300_000, (i) => `"k${i}":1`)}}`],
    ["2 million ids", () => `{"model":"tiny/fake","prompt":[${"1,".repeat(2_000_000)}1]}`],
    ["a million objects", () => `{${head},"x":[${"{},".repeat(1_000_000)}1]}`],
    ["lists of one id", () => `{"model":"tiny/fake","prompt":[${"[1],".repeat(490_000)}[1]]}`],
    ["a bottomless list", () => `{${head},"x":${"[".repeat(2_000_000)}`],
    ["a bottomless object", () => `{${head},"x":${'{"a":'.repeat(700_000)}`],
    ["logit_bias", () => `{${head},"logit_bias":{${many(5000, (i) => `"${i}":1`)}}}`],
  ])("F10: %s: refused before anything is made of them", async (_name, makeBody) => {
    const body = makeBody();
    const parse = vi.spyOn(JSON, "parse");
    const answer = await postText(body);
    const walked = parse.mock.calls.filter(([text]) => text.length > 10_000);
    parse.mockRestore();
    expect([answer.status, walked.length]).toEqual([400, 0]);
    expect(answer.body.error.message).toMatch(/more than \d+|deeper than 64/);
  });

  it.each<[string, string, () => string]>([
    ["strings", "prompt", () => `{"model":"tiny/fake","prompt":[${'"a",'.repeat(490_000)}"a"]}`],
    ["stops", "stop", () => `{${head},"stop":[${'"a",'.repeat(490_000)}"a"]}`],
    ["stop ids", "stop_token_ids", () => `{${head},"stop_token_ids":[${"-1,".repeat(490_000)}1]}`],
    ["a long stop", "stop", () => `{${head},"stop":"${"a".repeat(4_000_000)}"}`],
    ["a long prompt", "prompt", () => `{"model":"tiny/fake","prompt":"${"a".repeat(4_000_000)}"}`],
    ["a long key", "logit_bias", () => `{${head},"logit_bias":{"${"k".repeat(4_000_000)}":1}}`],
  ])("%s: refused by count or length, in a short answer", async (_name, param, makeBody) => {
    const body = makeBody();
    const encode = vi.spyOn(server.tokenizer, "encodeUpTo");
    const answer = await postText(body);
    expect([answer.status, encode.mock.calls.length]).toEqual([400, 0]);
    encode.mockRestore();
    expect(answer.body.error.param).toMatch(new RegExp(`^${param}`));
    expect(answer.text.length).toBeLessThan(3000);
  });

  it("what fits is read: many ids, a long string that means nothing, escapes without end", async () => {
    const ids = `{"model":"tiny/fake","prompt":[${"1,".repeat(400_000)}1]}`;
    expect((await postText(ids)).body.error.code).toBe("context_length_exceeded");
    expect((await postText(`{${head},"user":"${"u".repeat(4_000_000)}"}`)).status).toBe(200);
    expect((await postText(`{${head},"user":"${"\\n".repeat(2_000_000)}"}`)).status).toBe(200);
  });

  it("many prompts and their answers: others have a turn between two", async () => {
    let turn = 0;
    let ticking = true;
    const tick = () => {
      turn++;
      if (ticking) setImmediate(tick);
    };
    setImmediate(tick);
    const read: number[] = [];
    const written: number[] = [];
    const decoders = vi.spyOn(server.tokenizer, "streamDecoder").mockImplementation((options) => {
      read.push(turn);
      return new StreamDecoder(server.tokenizer, options);
    });
    const stringify = JSON.stringify;
    const writing = vi.spyOn(JSON, "stringify").mockImplementation((value) => {
      if (typeof value?.text === "string") written.push(turn);
      return stringify(value);
    });
    const prompt = Array.from({ length: 20 }, () => Array.from({ length: 100 }, (_, i) => 40 + i));
    const { body } = await post({ prompt, echo: true, logprobs: 5, max_tokens: 1 });
    ticking = false;
    decoders.mockRestore();
    writing.mockRestore();
    expect(body.choices.map(({ index }: { index: number }) => index)).toEqual([...prompt.keys()]);
    expect([read.length, new Set(read).size]).toEqual([20, 20]);
    expect([written.length, new Set(written).size]).toEqual([20, 20]);
  });

  it("a prompt of too many tokens is counted, not listed", async () => {
    const made: Encoding[] = [];
    const { encode } = Library.prototype;
    const spy = vi.spyOn(Library.prototype, "encode").mockImplementation(async function (
      this: Library,
      ...args
    ) {
      const encoding = await encode.apply(this, args);
      vi.spyOn(encoding, "getIds");
      made.push(encoding);
      return encoding;
    });
    const { body } = await post({ prompt: "\u0001".repeat(10_000) });
    spy.mockRestore();
    expect(body.error.message).toContain("10001 in the prompt");
    expect(made.map(({ getIds }) => vi.mocked(getIds).mock.calls.length)).toEqual([0]);
  });

  it("answers with scores: the text of a token is made once, however often it is shown", async () => {
    const made = vi.spyOn(server.tokenizer, "idToBytes");
    const asked = { prompt: ["a b c", "b a"], echo: true, logprobs: 5, n: 4, max_tokens: 8 };
    const { status, body } = await post(asked);
    const ids = made.mock.calls.map(([id]) => id);
    made.mockRestore();
    expect([status, body.choices.length]).toEqual([200, 8]);
    expect(ids.length).toBe(new Set(ids).size);
  });
});
