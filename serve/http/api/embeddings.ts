import { setImmediate as nextTurn } from "node:timers/promises";
import { z } from "zod";
import type { EncoderTask } from "../../text/encoder_frontend.ts";
import { finished } from "../answer.ts";
import { badRequest } from "../errors.ts";
import { encoderNamed, route } from "../route.ts";
import { encoderAdvice, encoderUsage, textList, truncation } from "./inputs.ts";

/** POST /v1/embeddings: a vector of each text. */
export const embeddings = route({
  method: "POST",
  path: "/v1/embeddings",
  summary: "A vector of each text",
  answer: "CreateEmbeddingResponse",
  example: { model: "MODEL", input: ["Once upon a time"] },
  bodyBytes: (limits) => limits.textsBodyBytes,
  advice: encoderAdvice("input"),
  schema: () =>
    z.object({
      model: z.string().min(1),
      input: z.unknown().optional(),
      encoding_format: z.enum(["float", "base64"]).nullish(),
      dimensions: z.int().min(1).nullish(),
      ...truncation,
    }),
  handle: async ({ body, service, caller, reply }) => {
    const { model, dimensions, truncate_prompt_tokens: truncate } = body;
    const frontend = encoderNamed(service, model, ["embed"], "/v1/embeddings");
    const inputs = textList("input", body.input, service.limits.inputs);
    const shorten = shortener(frontend.task, dimensions ?? frontend.task.width);
    const job = await finished(frontend.start({ inputs, client: caller.client, truncate }), reply);
    const encode = body.encoding_format === "base64" ? base64 : (vector: Float32Array) => [...vector];
    const data: string[] = [];
    for (const [index, vector] of (await job.done).entries()) {
      // Thousands of vectors are megabytes of text: others have their turn meanwhile.
      if (index % 64 === 63) await nextTurn();
      data.push(JSON.stringify({ object: "embedding", index, embedding: encode(shorten(vector)) }));
    }
    reply.header("content-type", "application/json; charset=utf-8");
    const rest = JSON.stringify({ model, usage: encoderUsage(job) }).slice(1);
    return `{"object":"list","data":[${data.join(",")}],${rest}`;
  },
});

type Embedding = Extract<EncoderTask, { name: "embed" }>;

/** Little-endian float32, as OpenAI's clients read it. */
function base64(vector: Float32Array): string {
  const bytes = Buffer.alloc(4 * vector.length);
  vector.forEach((value, i) => {
    bytes.writeFloatLE(value, 4 * i);
  });
  return bytes.toString("base64");
}

/** Makes vectors of `wanted` numbers, as models do that were trained for it (Kusupati et al. 2022). @throws HttpError 400. */
export function shortener(
  { width, matryoshka }: Embedding,
  wanted: number,
): (vector: Float32Array) => Float32Array {
  if (wanted === width) return (vector) => vector;
  const may = Array.isArray(matryoshka) ? matryoshka.includes(wanted) : matryoshka && wanted < width;
  if (!may) {
    const others = Array.isArray(matryoshka) ? `, or shortened to ${matryoshka.join(", ")}` : "";
    throw badRequest(
      "dimensions",
      `this model's vectors have ${width} dimensions${others}: leave dimensions out`,
    );
  }
  return (vector) => {
    const start = vector.subarray(0, wanted);
    const length = Math.hypot(...start);
    return length > 0 ? start.map((value) => value / length) : start;
  };
}
