import type { Models } from "../../models.ts";
import type { Store } from "../../store/index.ts";
import { tokenText } from "../../text/choice.ts";
import type { Frontend } from "../../text/frontend.ts";
import type { Prompt } from "../../text/request.ts";
import { AppError, notAnAnswer } from "../app_error.ts";
import type { Alternatives, Message } from "../protocol.ts";
import type { AnswerSource, Turn } from "./answers.ts";
import { buildContext } from "./context.ts";
import { readBranch } from "./history.ts";
import { promptOf } from "./local_answers.ts";

/** Tokens by which an entropy is counted; all others together count as one more, which makes it a little too small. */
const COUNTED = 100;

/**
 * The tokens of an answer and what its model held for likely in their place: it reads the prompt and the answer once more.
 * @throws AppError 409 for what no model of this server wrote.
 */
export async function alternatives(
  { store, source }: { store: Store; source: AnswerSource },
  models: Models,
  userId: string,
  message: Message,
  top: number,
): Promise<Alternatives> {
  const { conversation_id: conversationId, parent_id: end, content, params } = message;
  if (message.role !== "assistant") throw notAnAnswer();
  const name = [message.model_version, message.model].find((one) => one !== null && models.get(one));
  const model = name ? models.get(name) : undefined;
  if (!name || model?.kind !== "text" || (message.provider ?? "local") !== "local")
    throw new AppError(
      409,
      "no_alternatives",
      `${message.model ?? "the model"} is not on this server now, and only a model that is can say what else it held for likely`,
    );
  const contextLength = source.contextLength(name);
  const branch = await readBranch(store, userId, { conversationId, end, contextLength });
  const { turns } = await buildContext(source, name, branch, params?.max_tokens);
  return { model: message.model!, tokens: await scored(model.frontend, turns, content, userId, top) };
}

/** The tokens of an answer to turns, as a model reads them. */
export async function scored(
  frontend: Frontend,
  turns: readonly Turn[],
  answer: string,
  client: string,
  top: number,
): Promise<Alternatives["tokens"]> {
  const { tokenizer, engine } = frontend;
  const prompt = promptOf(tokenizer, turns);
  const asked = (await frontend.encode(prompt, {})).ids!;
  const whole = (await frontend.encode(withAnswer(prompt, answer), {})).ids!;
  const ids = whole.slice(0, engine.runner.maxModelLen - 1);
  // The last tokens of the prompt may have become others, with the answer's first letters.
  const from = asked.findIndex((id, i) => id !== ids[i]);
  const begin = Math.max(1, from < 0 ? asked.length : from);
  if (begin >= ids.length) return [];
  const job = await frontend.start(
    { client, prompts: [ids], prompt_logprobs: Math.max(COUNTED, top), max_tokens: 1, temperature: 0 },
    () => {},
  );
  await job.done;
  return job.choices[0]!.promptScores.slice(begin - 1).map(({ id, logprob, top: likely }) => ({
    ...{ text: tokenText(tokenizer, id), probability: Math.exp(logprob!), entropy: entropyOf(likely) },
    top: likely.slice(0, top).map(([other, value]) => ({
      ...{ text: tokenText(tokenizer, other), probability: Math.exp(value) },
    })),
  }));
}

function withAnswer(prompt: Prompt, answer: string): Prompt {
  if (typeof prompt === "string") return prompt + answer;
  const pieces = (prompt as { pieces: readonly (string | number)[] }).pieces;
  const last = pieces.at(-1);
  return { pieces: typeof last === "string" ? [...pieces.slice(0, -1), last + answer] : [...pieces, answer] };
}

/** In bits. */
function entropyOf(likely: readonly (readonly [id: number, logprob: number])[]): number {
  const known = likely.map(([, logprob]) => Math.exp(logprob));
  const rest = 1 - known.reduce((sum, p) => sum + p, 0);
  return [...known, rest].reduce((sum, p) => sum - (p > 1e-9 ? p * Math.log2(p) : 0), 0);
}
