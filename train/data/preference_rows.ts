import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { isObject } from "../../core/platform/files.ts";
import {
  type ChatMessage,
  type ChatTemplate,
  ConversationError,
  type EncodedChat,
  readConversation,
} from "../../tokenizer/index.ts";
import { type ChatExample, chatBatch, chatExample } from "./chat_rows.ts";
import type { Batch } from "./packing.ts";
import { readTable } from "./table.ts";

type Row = Record<string, unknown>;
const sides = ["chosen", "rejected"] as const;

/** One prompt with two replies, the better one first; only the replies have targets. */
export type Pair = Record<(typeof sides)[number], ChatExample>;

/** The pairs of files, encoded, and what was left out. */
export interface PairData {
  pairs: Pair[];
  /** Pairs with a reply that does not fit into a row after its prompt. */
  tooLong: number;
  /** Pairs of equal replies, which say nothing. */
  equal: number;
  /** SHA-256 of the pairs. */
  hash: string;
}

const isMessage = (value: unknown) => isObject(value) && ("role" in value || "from" in value);

/** A row with one of its replies, as a row of a chat format. Throws a ConversationError where it has none. */
function withReply({ chosen: _c, rejected: _r, ...row }: Row, reply: unknown, side: string): Row {
  const isText = typeof reply === "string" && reply.trim() !== "";
  const said = isMessage(reply) ? [reply] : Array.isArray(reply) && reply.every(isMessage) ? reply : [];
  if (!isText && said.length === 0)
    throw new ConversationError(`${side} should be a reply: text, a message, or a list of messages`);
  const spoken = isText ? [{ role: "assistant", content: reply }] : (said as Row[]);
  // TRL's and ultrafeedback's rows: each side may be the whole conversation.
  if (/user|human|system/.test(String(spoken[0].role ?? spoken[0].from))) return { messages: spoken };
  for (const key of ["conversations", "messages"])
    if (Array.isArray(row[key])) return { ...row, [key]: [...row[key], ...spoken] };
  if (Array.isArray(row.prompt)) return { ...row, messages: [...row.prompt, ...spoken] };
  const asked = row.instruction ?? row.prompt ?? row.question;
  if (typeof asked === "string" && isText) return { ...row, instruction: asked, output: reply };
  if (typeof asked === "string") return { messages: [{ role: "user", content: asked }, ...spoken] };
  throw new ConversationError(
    "there is no prompt: give prompt, question, instruction, messages or conversations beside chosen and rejected",
  );
}

/** The two conversations of a row. What both begin with is the prompt: assistant turns in it are not learned. */
function conversations(row: Row): { chosen: ChatMessage[]; rejected: ChatMessage[] } {
  const [chosen, rejected] = sides.map((side) => readConversation(withReply(row, row[side], side)).messages);
  for (const [i, messages] of [chosen, rejected].entries())
    if (messages.at(-1)?.content.trim() === "")
      throw new ConversationError(`${sides[i]} should be a reply: its text is empty`);
  const differing = chosen.findIndex((message, i) => !isDeepStrictEqual(message, rejected[i]));
  const shared = differing < 0 ? chosen.length - 1 : differing;
  const own = (messages: ChatMessage[]) =>
    messages.map((message, i) =>
      i < shared && message.role === "assistant" ? { ...message, weight: 0 } : message,
    );
  return { chosen: own(chosen), rejected: own(rejected) };
}

/**
 * Reads pairs into memory from tables of any kind (`readTable`) with columns `chosen` and `rejected`: the schemas of TRL
 * (texts or lists of messages, with `prompt` or with the prompt in both lists), of LlamaFactory (`conversations`, or
 * `instruction` and `input`) and of Intel's DPO pairs (`system`, `question`).
 * @throws KilnError that names the file and row, as for `readChats`.
 */
export async function readPairs(
  paths: readonly string[],
  template: ChatTemplate,
  longest: number,
): Promise<PairData> {
  const hash = createHash("sha256");
  const found: PairData = { pairs: [], tooLong: 0, equal: 0, hash: "" };
  for (const file of paths) {
    for await (const { where, values } of (await readTable(file)).rows()) {
      let encoded: EncodedChat[];
      try {
        const { chosen, rejected } = conversations(values);
        encoded = [
          await template.encodeForTraining({ messages: chosen }),
          await template.encodeForTraining({ messages: rejected }),
        ];
      } catch (error) {
        if (!(error instanceof ConversationError)) throw error;
        throw new ConversationError(`${where}: ${error.message}`, error);
      }
      const [chosen, rejected] = encoded.map(chatExample);
      if (encoded[0].text === encoded[1].text) found.equal++;
      else if (Math.max(chosen.tokens.length, rejected.tokens.length) > longest) found.tooLong++;
      else {
        found.pairs.push({ chosen, rejected });
        for (const { tokens, targets } of [chosen, rejected]) hash.update(`${tokens} ${targets}\n`);
      }
    }
  }
  return { ...found, hash: hash.digest("hex") };
}

/** B pairs as 2 B rows of `seqLen` tokens: the chosen replies, then the rejected ones. Without a pair, a row is padding. */
export function pairBatch(pairs: readonly (Pair | null)[], seqLen: number): Batch {
  const rows = sides.flatMap((side) => pairs.map((pair) => (pair ? [pair[side]] : [])));
  return { ...chatBatch(rows, seqLen), supervised: pairs.filter((pair) => pair !== null).length };
}

/** Batches of `rows` pairs spread evenly over all, the same ones every time; the last is filled up with padding. */
export function* pairBatches(
  all: readonly Pair[],
  { rows, batchSize, seqLen }: { rows: number; batchSize: number; seqLen: number },
): Generator<Batch> {
  for (let first = 0; first < rows; first += batchSize) {
    const chosen = Array.from({ length: batchSize }, (_, i) =>
      first + i < rows ? all[Math.floor(((first + i + 0.5) * all.length) / rows)] : null,
    );
    yield pairBatch(chosen, seqLen);
  }
}
