import { z } from "zod";
import type { Limits } from "../../../limits.ts";
import { type MessageDelta, startChat } from "../../../text/chat.ts";
import type { ChoiceDelta, ShownToken } from "../../../text/choice.ts";
import type { Frontend } from "../../../text/frontend.ts";
import { badRequest } from "../../errors.ts";
import { type Call, modelNamed, route } from "../../route.ts";
import { tokenLogprobs } from "../../token_logprobs.ts";
import { flag } from "../text_fields.ts";
import { type AnswerWriter, answered, loaded } from "./answer.ts";
import { ADVICE, type AnswerBody, answerFields, answerOptions, knownName } from "./fields.ts";

function generateSchema(limits: Limits) {
  return z.object({
    ...answerFields(limits),
    prompt: z.string().nullish(),
    system: z.string().nullish(),
    raw: flag,
  });
}

type GenerateBody = z.infer<ReturnType<typeof generateSchema>>;

/** POST /api/generate: Ollama's completion, which is one turn of a chat unless it is `raw`. */
export const generate = route({
  method: "POST",
  path: "/api/generate",
  summary: "Answer a prompt, as Ollama does",
  example: { model: "MODEL", prompt: "Once upon a time" },
  schema: generateSchema,
  advice: ADVICE,
  handle: (call: Call<GenerateBody>) => {
    const { body, service } = call;
    const frontend = modelNamed(service, knownName(service, body.model));
    if (!body.prompt) return loaded(call, { response: "" });
    return answered<Piece>(call, (onDelta) => start(call, frontend, onDelta), new Generated(call, frontend));
  },
});

type Piece = Pick<ChoiceDelta, "text" | "logprobs"> & { finishReason: MessageDelta["finishReason"] };

/** A model without a chat template reads the prompt as it is. */
function start(call: Call<GenerateBody>, frontend: Frontend, onDelta: (index: number, delta: Piece) => void) {
  const { prompt, system, raw } = call.body;
  const options = answerOptions(call);
  if (raw && system) throw badRequest("system", "system is no part of a raw prompt: leave it or raw out");
  if (!raw && frontend.tokenizer.chatTemplate !== null) {
    const messages = [{ role: "user" as const, content: prompt! }];
    const conversation = {
      messages: system ? [{ role: "system" as const, content: system }, ...messages] : messages,
    };
    return startChat(frontend, { ...options, conversation }, (index, { content, ...rest }) =>
      onDelta(index, { ...rest, text: content }),
    );
  }
  if (system)
    throw badRequest(
      "system",
      "this model has no chat template, so it reads no system message: leave it out",
    );
  return frontend.start({ ...options, prompts: [prompt!] }, onDelta);
}

class Generated implements AnswerWriter<Piece> {
  readonly #body: GenerateBody;
  readonly #frontend: Frontend;

  constructor({ body }: Call<GenerateBody>, frontend: Frontend) {
    this.#body = body;
    this.#frontend = frontend;
  }

  piece({ text, logprobs }: Piece) {
    if (text === "" && !logprobs?.length) return null;
    return { response: text, ...logprobsOf(this.#frontend, this.#body, logprobs) };
  }

  last() {
    return { response: "" };
  }

  whole(deltas: readonly Piece[]) {
    const logprobs = deltas[0]?.logprobs && deltas.flatMap((delta) => delta.logprobs ?? []);
    const response = deltas.map(({ text }) => text).join("");
    return { response, ...logprobsOf(this.#frontend, this.#body, logprobs ?? null) };
  }
}

/** Ollama's `logprobs`, where they were asked for. */
export function logprobsOf(
  { tokenizer }: Frontend,
  { top_logprobs }: AnswerBody,
  tokens: readonly ShownToken[] | null,
) {
  return tokens === null ? {} : { logprobs: tokenLogprobs(tokenizer, tokens, top_logprobs ?? 0) };
}
