import { z } from "zod";
import type { Limits } from "../../limits.ts";
import type { EncoderInput } from "../../text/encoder_frontend.ts";
import { finished } from "../answer.ts";
import { badRequest } from "../errors.ts";
import { type Call, encoderNamed, type Route, route } from "../route.ts";
import { encoderAdvice, encoderHeader, encoderUsage, truncation } from "./inputs.ts";

const oneOrMore = (most: number) => z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(most)]);

function scoreSchema({ inputs }: Limits) {
  const texts = oneOrMore(inputs);
  return z.object({ model: z.string().min(1), text_1: texts, text_2: texts, ...truncation });
}

const scoreRoute = (path: string) =>
  route({
    method: "POST",
    path,
    summary: "How well the texts of each pair fit",
    example: { model: "MODEL", text_1: "What is rain?", text_2: ["Water.", "Fire."] },
    bodyBytes: (limits) => limits.textsBodyBytes,
    advice: encoderAdvice("text_1 and text_2"),
    schema: scoreSchema,
    handle: async (call: Call<z.infer<ReturnType<typeof scoreSchema>>>) => {
      const { model, text_1, text_2 } = call.body;
      const [first, second] = [[text_1].flat(), [text_2].flat()];
      if (first.length !== second.length && first.length !== 1)
        throw badRequest(
          "text_2",
          `text_1 has ${first.length} texts and text_2 ${second.length}: give as many, or one text_1`,
        );
      const pairs = second.map((text, i) => [first[first.length === 1 ? 0 : i], text] as const);
      const { scores, job } = await scorePairs(call, pairs, path, "text_2");
      const data = scores.map((score, index) => ({ index, object: "score", score }));
      return { ...encoderHeader("score", model), data, usage: encoderUsage(job) };
    },
  });

function rerankSchema({ inputs }: Limits) {
  const text = z.string().min(1);
  return z.object({
    model: text,
    query: text,
    documents: z
      .array(z.union([text, z.object({ text })], "must be texts"))
      .min(1)
      .max(inputs),
    top_n: z.int().min(0).nullish(),
    return_documents: z.boolean().nullish(),
    ...truncation,
  });
}

const rerankRoute = (path: string) =>
  route({
    method: "POST",
    path,
    summary: "Documents by how well they fit a query",
    example: { model: "MODEL", query: "What is rain?", documents: ["Water.", "Fire."] },
    bodyBytes: (limits) => limits.textsBodyBytes,
    advice: encoderAdvice("query and documents"),
    schema: rerankSchema,
    handle: async (call: Call<z.infer<ReturnType<typeof rerankSchema>>>) => {
      const { model, query, documents, top_n, return_documents } = call.body;
      const texts = documents.map((given) => (typeof given === "string" ? given : given.text));
      const pairs = texts.map((text) => [query, text] as const);
      const { scores, job } = await scorePairs(call, pairs, path, "documents");
      const results = scores
        .map((relevance_score, index) => ({
          index,
          ...(return_documents !== false && { document: { text: texts[index] } }),
          relevance_score,
        }))
        .sort((a, b) => b.relevance_score - a.relevance_score || a.index - b.index)
        .slice(0, top_n || texts.length);
      const { id } = encoderHeader("rerank", model);
      return { id, model, usage: encoderUsage(job), results };
    },
  });

/** POST /score and /rerank, as vLLM has them; Cohere's and Jina's clients know the latter under /v1 and /v2. */
export const scoring: readonly Route[] = [
  ...["/score", "/v1/score"].map(scoreRoute),
  ...["/rerank", "/v1/rerank", "/v2/rerank"].map(rerankRoute),
];

type Pair = readonly [string, string];

/** How well the texts of each pair fit: what a cross-encoder says of both together, else the cosine of their vectors. */
async function scorePairs(
  {
    body,
    service,
    caller,
    reply,
  }: Call<{ model: string; truncate_prompt_tokens?: number | null | undefined }>,
  pairs: readonly Pair[],
  path: string,
  param: string,
) {
  const frontend = encoderNamed(service, body.model, ["score", "embed"], path);
  const { task } = frontend;
  const start = (inputs: readonly EncoderInput[]) =>
    finished(
      frontend.start({ inputs, client: caller.client, truncate: body.truncate_prompt_tokens, param }),
      reply,
    );
  if (task.name !== "embed") {
    const job = await start(pairs);
    return { scores: (await job.done).map((logits) => task.scores(logits)[0]), job };
  }
  const texts = [...new Set(pairs.flat())];
  const job = await start(texts);
  const vectors = new Map((await job.done).map((vector, i) => [texts[i], vector]));
  return { scores: pairs.map(([a, b]) => cosine(vectors.get(a)!, vectors.get(b)!)), job };
}

/** The cosine of the angle between two vectors, 0 where one has no length; within 1, which rounding may pass. */
function cosine(a: Float32Array, b: Float32Array): number {
  const length = Math.hypot(...a) * Math.hypot(...b);
  const product = a.reduce((sum, value, i) => sum + value * b[i], 0);
  return length > 0 ? Math.max(-1, Math.min(1, product / length)) : 0;
}
