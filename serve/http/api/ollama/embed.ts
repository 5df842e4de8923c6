import { z } from "zod";
import type { Limits } from "../../../limits.ts";
import { finished } from "../../answer.ts";
import { type Call, encoderNamed, route } from "../../route.ts";
import { shortener } from "../embeddings.ts";
import { encoderAdvice, textList } from "../inputs.ts";
import { flag } from "../text_fields.ts";
import { knownName } from "./fields.ts";

const options = z.looseObject({}).nullish();

/** POST /api/embed: Ollama's vectors. A text that is too long is refused, unless `truncate` says to cut it. */
export const embed = route({
  method: "POST",
  path: "/api/embed",
  summary: "A vector of each text, as Ollama gives it",
  example: { model: "MODEL", input: ["Once upon a time"] },
  bodyBytes: (limits: Limits) => limits.textsBodyBytes,
  advice: encoderAdvice("input"),
  schema: () =>
    z.object({
      model: z.string().min(1),
      input: z.union([z.string(), z.array(z.string())], "must be a string or a list of strings"),
      truncate: flag,
      dimensions: z.int().min(1).nullish(),
      options,
    }),
  handle: async (call) => {
    const start = performance.now();
    const { model, input, truncate, dimensions } = call.body;
    const { vectors, tokens } = await vectorsOf(call, input, { truncate, dimensions, path: "/api/embed" });
    return {
      ...{ model, embeddings: vectors },
      ...{ total_duration: Math.round((performance.now() - start) * 1e6), load_duration: 0 },
      prompt_eval_count: tokens,
    };
  },
});

/** POST /api/embeddings: the older form, of one text. */
export const embeddings = route({
  method: "POST",
  path: "/api/embeddings",
  summary: "A vector of one text, as older clients of Ollama ask for it",
  example: { model: "MODEL", prompt: "Once upon a time" },
  advice: encoderAdvice("prompt"),
  schema: () => z.object({ model: z.string().min(1), prompt: z.string(), options }),
  handle: async (call) => {
    const { vectors } = await vectorsOf(call, call.body.prompt, { path: "/api/embeddings" });
    return { embedding: vectors[0] };
  },
});

interface Wanted {
  path: string;
  truncate?: boolean | null | undefined;
  dimensions?: number | null | undefined;
}

async function vectorsOf(
  { body, service, caller, reply }: Call<{ model: string }>,
  input: string | string[],
  { path, truncate, dimensions }: Wanted,
) {
  const frontend = encoderNamed(service, knownName(service, body.model), ["embed"], path);
  const inputs = textList("input", input, service.limits.inputs);
  const shorten = shortener(frontend.task, dimensions ?? frontend.task.width);
  const starting = frontend.start({
    inputs,
    client: caller.client,
    truncate: truncate ? -1 : null,
    advice: "truncate: true",
  });
  const job = await finished(starting, reply);
  return { vectors: (await job.done).map((vector) => [...shorten(vector)]), tokens: job.promptTokens };
}
