import type { ModelPool, Models, TextModel } from "../../models.ts";
import { chatPrompt, type MessageDelta, startChat } from "../../text/chat.ts";
import type { Frontend } from "../../text/frontend.ts";
import type { TextJob } from "../../text/job.ts";
import type { Prompt } from "../../text/request.ts";
import { AppError } from "../app_error.ts";
import type { Usage } from "../protocol.ts";
import {
  type AnswerRequest,
  type AnswerSource,
  LOCAL_ANSWERER,
  type Noticed,
  type RunningAnswer,
  type TextListener,
  type Turn,
} from "./answers.ts";

/** The models of this server as a source of answers. */
export function localAnswers(pool: ModelPool): AnswerSource {
  const models = () => [...pool].flatMap(([name, { kind }]) => (kind === "text" ? [name] : []));
  const find = (name: string, from: Models = pool): TextModel => {
    const model = from.get(name);
    if (model?.kind === "text") return model;
    const names = models().map((known) => `\`${known}\``);
    throw new AppError(
      404,
      "model_not_found",
      `no model \`${name.slice(0, 100)}\` answers here; this server has ${names.join(", ") || "none that does"}`,
      "model",
    );
  };
  return {
    models,
    versionOf: (name) => pool.get(name)?.name ?? null,
    parameters: (name) => pool.get(name)?.facts?.parameters ?? null,
    contextLength: (name) => find(name).maxModelLen,
    count: async (name, turns) => countWith(find(name).frontend, turns),
    async start(request, onText, onNotice) {
      const held = pool.hold();
      try {
        const { frontend, name } = find(request.model, held);
        return await answerWith(frontend, name, request, { onText, onNotice, ended: () => held.release() });
      } catch (error) {
        held.release();
        throw error;
      }
    },
  };
}

/** Tokens of the prompt that turns make for a model; Infinity where they are far too many to count. */
export async function countWith(frontend: Frontend, turns: readonly Turn[]): Promise<number> {
  const prompt = promptOf(frontend.tokenizer, turns);
  try {
    return (await frontend.encode(prompt, {}, frontend.engine.runner.maxModelLen)).count;
  } catch (error) {
    if ((error as { code?: string }).code === "context_length_exceeded") return Infinity;
    throw error;
  }
}

interface Hearer {
  readonly onText: TextListener;
  readonly onNotice?: (notice: Noticed) => void;
  /** Called at the end of an answer that was begun. */
  readonly ended: () => void;
}

/** Between looks at the queue of an answer that has no text yet. */
const LOOK_MS = 250;

/** Tells about where an answer stands in the queue, at first no further than `most`, each time that it comes nearer. */
function tellPlace({ engine }: Frontend, job: TextJob, most: number, tell: (notice: Noticed) => void): void {
  let told = Infinity;
  const timer = setInterval(() => {
    if (job.completionTokens > 0) return clearInterval(timer);
    // Those who came later wait behind it.
    const position = Math.min(most, engine.stats().waiting);
    if (position === 0 || position >= told) return;
    told = position;
    tell({ kind: "queued", position });
  }, LOOK_MS);
  timer.unref();
  const end = () => clearInterval(timer);
  job.done.then(end, end);
}

/** Has a model answer. */
export async function answerWith(
  frontend: Frontend,
  name: string,
  { turns, params, client, continues, scores = false }: AnswerRequest,
  { onText, onNotice, ended }: Hearer,
): Promise<RunningAnswer> {
  const by = { ...LOCAL_ANSWERER, modelVersion: /@\d+$/.test(name) ? name : null };
  const request = { ...params, client, fit_context: true, ...(scores ? { logprobs: 0 } : {}) };
  const before = frontend.engine.stats().waiting;
  let finish: "stop" | "length" = "stop";
  const hear = (
    text: string,
    { finishReason: reason, logprobs }: Pick<MessageDelta, "finishReason" | "logprobs">,
  ) => {
    if (reason !== null) finish = reason === "length" ? "length" : "stop";
    if (text !== "" || logprobs)
      onText(
        text,
        logprobs?.map(({ logprob }) => logprob ?? 0),
      );
  };
  const job =
    frontend.tokenizer.chatTemplate === null
      ? await frontend.start({ ...request, prompts: [joined(turns)] }, (_, delta) => hear(delta.text, delta))
      : await startChat(
          frontend,
          {
            ...request,
            conversation: { messages: [...turns] },
            ...(continues ? { add_generation_prompt: false, continue_final_message: true } : {}),
          },
          (_, delta) => hear(delta.content, delta),
        );
  job.done.then(ended, ended);
  if (onNotice) tellPlace(frontend, job, before + 1, onNotice);
  return {
    done: job.done.then(() => finish),
    usage: () => usageOf(job),
    by: () => (scores ? { ...by, meanLogprob: job.choices[0]!.meanLogprob } : by),
    stop: () => job.cancel(),
  };
}

/** A model without a chat template was not trained to talk: it goes on writing the text so far. */
const joined = (turns: readonly Turn[]) => turns.map(({ content }) => content).join("\n");

export const promptOf = (tokenizer: Parameters<typeof chatPrompt>[0], turns: readonly Turn[]): Prompt =>
  tokenizer.chatTemplate === null
    ? joined(turns)
    : { pieces: chatPrompt(tokenizer, { conversation: { messages: [...turns] } }).pieces };

const usageOf = ({ promptTokens, completionTokens, cachedTokens }: TextJob): Usage => ({
  prompt_tokens: promptTokens,
  completion_tokens: completionTokens,
  cached_tokens: cachedTokens,
  estimated: false,
});
