import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { ModelRunner } from "../serve/engine/runner.ts";
import { createServer, type Server } from "../serve/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/index.ts";
import { scoreChoices } from "../train/eval/choice.ts";
import { send } from "./serve_fake.ts";

/** The requests of lm-eval's `local-completions`, read as it reads them, beside what `kiln eval` computes by itself. */
const folder = mkdtempSync(join(tmpdir(), "kiln-lm-eval-"));
const stories = [...storyCorpus({ seed: 5, stories: 60 })];
const tokenizer = new Tokenizer(trainBpe(stories, { vocab_size: 400, special_tokens: ["<|endoftext|>"] }));
let model: LlamaForCausalLM;
let server: Server;
let url: string;
beforeAll(async () => {
  await openDevice();
  const sizes = { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 };
  const vocab_size = tokenizer.vocabSize;
  // Weights larger than usual, with which every token would be as likely as any other.
  model = new LlamaForCausalLM(tinyllmConfig({ ...sizes, vocab_size, initializer_range: 0.1 })).init(3);
  server = createServer({
    runner: new ModelRunner(model, { maxModelLen: 256 }),
    tokenizer,
    modelName: "tiny",
  });
  url = await server.listen({ port: 0 });
});
afterAll(async () => {
  await server.close(0);
  rmSync(folder, { recursive: true });
});

/** Contexts and what may follow, as questions of two choices. */
const questions = stories.slice(0, 24).map((story, i) => {
  const words = story.split(" ").slice(0, 14 + (i % 5));
  const at = 3 + (i % 7);
  return {
    context: words.slice(0, at).join(" "),
    choices: [
      words.slice(at).join(" "),
      `the ${words
        .slice(at, at + 2)
        .reverse()
        .join(" ")}`,
    ],
    answer: 0,
  };
});

interface Choice {
  index: number;
  logprobs: {
    token_logprobs: (number | null)[];
    top_logprobs: (Record<string, number> | null)[];
    tokens: string[];
  };
}

/** As `LocalCompletionsAPI.parse_logprobs` of lm-eval. */
function parse(choices: Choice[], contexts: number[], end: number | undefined) {
  return [...choices]
    .sort((a, b) => a.index - b.index)
    .map(({ logprobs: { token_logprobs, top_logprobs, tokens } }, i) => {
      const scored = token_logprobs.slice(contexts[i], end) as number[];
      const isGreedy = scored.every((logprob, k) => {
        const best = top_logprobs[contexts[i] + k]!;
        return logprob === Math.max(...Object.values(best)) && best[tokens[contexts[i] + k]] === logprob;
      });
      return { logLikelihood: scored.reduce((sum, logprob) => sum + logprob, 0), isGreedy };
    });
}

describe("lm-eval's loglikelihood", () => {
  it.each([
    [1, -1],
    [0, undefined],
  ])(
    "of token arrays with echo, logprobs and max_tokens %i is what kiln eval says",
    async (max_tokens, end) => {
      const path = join(folder, "questions.jsonl");
      writeFileSync(path, questions.map((question) => JSON.stringify(question)).join("\n"));
      const offline: number[] = [];
      for await (const { logLikelihoods } of scoreChoices({ model, tokenizer }, [path], (what) => {
        throw new Error(what);
      }))
        offline.push(...logLikelihoods);
      expect(offline).toHaveLength(48);

      // As lm-eval encodes a pair: the whole, and the context to know where to cut.
      const prompts: number[][] = [];
      const contexts: number[] = [];
      for (const { context, choices } of questions)
        for (const choice of choices) {
          prompts.push(await tokenizer.encode(`${context} ${choice}`));
          contexts.push((await tokenizer.encode(context)).length);
        }
      const online: number[] = [];
      // Its default is one request for each pair; --batch_size gives several.
      for (const size of [1, 16])
        for (let i = size === 1 ? 0 : 4; i < (size === 1 ? 4 : prompts.length); i += size) {
          const prompt = prompts.slice(i, i + size);
          const more = { model: "tiny", max_tokens, logprobs: 1, echo: true, temperature: 0, seed: 1234 };
          const { status, body } = await send(`${url}/v1/completions`, { json: { prompt, ...more } });
          expect(status).toBe(200);
          const parsed = parse(body.choices, contexts.slice(i, i + size), end);
          online.push(...parsed.map(({ logLikelihood }) => logLikelihood));
        }
      const differences = online.map((value, i) => Math.abs(value - offline[i]));
      console.log(`largest difference ${Math.max(...differences)} of ${Math.min(...offline)}`);
      expect(online).toHaveLength(offline.length);
      expect(Math.max(...differences)).toBeLessThan(1e-5);
      expect(Math.max(...offline.map(Math.abs))).toBeGreaterThan(50);
    },
  );

  it("says that a continuation is greedy exactly where the model would write it", async () => {
    const prompt = await tokenizer.encode(questions[0].context);
    const ask = async (json: object) =>
      (await send(`${url}/v1/completions`, { json: { model: "tiny", temperature: 0, ...json } })).body
        .choices;
    const [written] = await ask({ prompt, max_tokens: 8, return_token_ids: true, ignore_eos: true });
    const answer: number[] = written.token_ids;
    const changed = answer.map((id, i) => (i === 5 ? (id + 1) % tokenizer.vocabSize : id));
    const both = [answer, changed].map((tokens) => [...prompt, ...tokens]);
    const choices = await ask({ prompt: both, max_tokens: 1, logprobs: 1, echo: true });
    const parsed = parse(choices, [prompt.length, prompt.length], -1);
    expect(parsed.map(({ isGreedy }) => isGreedy)).toEqual([true, false]);
  });
});
