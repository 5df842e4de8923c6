import { KilnError } from "../../core/errors.ts";
import { duration, type ProgressLine } from "../../core/platform/progress_line.ts";
import { dispose } from "../../core/scope.ts";
import { TextSize } from "../../core/statistics/words.ts";
import { loadModel } from "../../models/formats/hf_directory.ts";
import type { Generated, TextGeneration } from "../../models/generation.ts";
import { withChat } from "../../models/vocabulary.ts";
import { ChatTemplate, type Conversation, type Tokenizer } from "../../tokenizer/index.ts";
import { mapChats } from "../data/chat_rows.ts";
import { Diversity } from "../metrics/diversity.ts";
import { Perplexity } from "../metrics/perplexity.ts";
import { McNemar, pairedBootstrap, wilsonInterval } from "../metrics/significance.ts";
import type { MakeGenerator } from "../recipe.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";
import { logLikelihoods, type Piece } from "./likelihood.ts";
import type { Scorer } from "./perplexity.ts";
import { SpeedMeter } from "./speed.ts";

export interface ChatFlags {
  data: string[];
  /** Conversations at most, the first of the data. */
  limit?: number;
  maxTokens: number;
  temperature: number;
  seed: number;
  dtype?: "f32" | "f16";
  speed?: boolean;
}

/** What the last reply of a conversation is asked and measured with. */
interface Question {
  /** Counts the conversations of the data. */
  index: number;
  asked: string;
  prompt: readonly number[];
  /** The token that ends a turn in the template. */
  turnEnd: number;
  reply: Piece & { size: TextSize };
}

/** An answer to the messages before the last reply of a conversation, and how likely that reply is. */
export interface JudgedAnswer extends Pick<Question, "index" | "asked" | "reply"> {
  text: string;
  /** Tokens, the one that ended it not counted. */
  length: number;
  /** The model ended it itself, by any token that does. */
  stops: boolean;
  /** It did so as the template ends a turn. */
  ends: boolean;
  /** No special token and no line of the template's that begins a turn is in it. */
  clean: boolean;
  /** It says something. */
  speaks: boolean;
  /** In nats; the turn-end token does not count. */
  logLikelihood: number;
}

/** Answers that are asked for together. */
const groupSize = 32;

/** A model's answers to conversations. Those that are longer than its context, or have no question, are left out and reported. */
async function* answerChats(
  { model, tokenizer }: Scorer,
  generator: TextGeneration,
  flags: ChatFlags,
  leaveOut: (what: string) => void,
  meter?: SpeedMeter,
): AsyncGenerator<JudgedAnswer> {
  const { maxTokens: max_tokens, temperature, seed, limit = Number.POSITIVE_INFINITY } = flags;
  const options = { max_tokens, temperature, seed };
  const template = new ChatTemplate(tokenizer);
  const judge = answerJudge(tokenizer, template);
  const ask = async (group: Question[]) => {
    const begin = performance.now();
    const written = await generator.generate(
      group.map(({ prompt }) => prompt),
      options,
    );
    const tokens = written.reduce((sum, [{ token_ids }]) => sum + token_ids.length, 0);
    const alone = () => generator.generate([group[0].prompt], options);
    meter?.add(tokens, performance.now() - begin, alone);
    const judged: JudgedAnswer[] = [];
    for await (const { logLikelihood } of logLikelihoods(
      model,
      group.map(({ reply }) => reply),
    )) {
      const { index, asked, reply, turnEnd } = group[judged.length];
      const answer = judge(written[judged.length][0], turnEnd);
      judged.push({ index, asked, reply, logLikelihood, ...answer });
    }
    return judged;
  };
  let [index, group]: [number, Question[]] = [0, []];
  const longest = model.shape.max_position_embeddings;
  for await (const question of mapChats(flags.data, (chat) => questionOf(chat, template, tokenizer))) {
    if (index === limit) break;
    index++;
    if (!question) leaveOut("conversations that begin with their only answer");
    else if (Math.max(question.prompt.length + 1, question.reply.tokens.length) > longest)
      leaveOut("conversations longer than the model's context");
    else if (group.push({ ...question, index }) === groupSize) {
      yield* await ask(group);
      group = [];
    }
  }
  if (group.length > 0) yield* await ask(group);
}

/** The last answer that is to be learned, and what it answers; null if that is nothing. */
async function questionOf(
  { messages, ...others }: Conversation,
  template: ChatTemplate,
  tokenizer: Tokenizer,
): Promise<Omit<Question, "index"> | null> {
  const last = messages.findLastIndex(({ role, weight }) => role === "assistant" && weight !== 0);
  const whole = { ...others, messages: messages.slice(0, last + 1) };
  const { ids, assistantMask } = await template.encodeForTraining(whole);
  if (last === 0) return null;
  const before = { ...others, messages: messages.slice(0, last) };
  const { ids: prompt } = await template.encode(before, { addGenerationPrompt: true });
  // What follows the turn-end token is white space at most: `encodeForTraining` sees to it.
  const end = ids.findLastIndex((id, i) => assistantMask[i] === 1 && tokenizer.eosIds.includes(id));
  const from = assistantMask.lastIndexOf(0, end) + 1;
  const size = new TextSize().add(messages[last].content);
  const asked = before.messages.at(-1)!.content;
  return { asked, prompt, turnEnd: ids[end], reply: { tokens: ids.slice(0, end), from, size } };
}

/** Judges answers by a template. */
function answerJudge(tokenizer: Tokenizer, template: ChatTemplate) {
  const marks = turnMarks(template);
  return ({ text, token_ids: ids, finish_reason }: Generated, turnEnd: number) => {
    const stops = finish_reason === "stop";
    const said = stops ? ids.slice(0, -1) : ids;
    const lines = text.split("\n").map((line) => line.trim());
    return {
      text,
      length: said.length,
      stops,
      ends: stops && ids.at(-1) === turnEnd,
      clean: !said.some((id) => tokenizer.isSpecial(id)) && !lines.some((line) => marks.includes(line)),
      speaks: text.trim() !== "",
    };
  };
}

/** What a template writes around messages besides special tokens, such as `user` in ChatML, a line each. */
function turnMarks(template: ChatTemplate): string[] {
  const content = "a message that no template holds";
  const roles = ["user", "assistant", "user"] as const;
  const messages = roles.map((role) => ({ role, content }));
  const { pieces } = template.render({ messages }, { addGenerationPrompt: true });
  const lines = pieces.flatMap((piece) => (typeof piece === "string" ? piece.split(content) : []));
  return lines
    .flatMap((each) => each.split("\n"))
    .map((line) => line.trim())
    .filter(Boolean);
}

/** The scores of one model's answers. */
class ChatScores {
  readonly #rates = { format_rate: 0, stopped_rate: 0, turn_end_rate: 0, clean_rate: 0, non_empty_rate: 0 };
  readonly #diversity = new Diversity();
  readonly #replies = new Perplexity();
  #answers = 0;
  #tokens = 0;

  add(answer: JudgedAnswer): void {
    this.#answers++;
    this.#tokens += answer.length;
    for (const [rate, holds] of Object.entries(verdicts(answer)))
      this.#rates[rate as keyof ReturnType<typeof verdicts>] += Number(holds);
    this.#diversity.add(answer.text);
    const { tokens, from, size } = answer.reply;
    this.#replies.add(size, answer.logLikelihood, tokens.length - from);
  }

  value() {
    const count = this.#answers;
    const { distinct, repetition } = this.#diversity.value();
    const { tokenPerplexity, bitsPerByte } = this.#replies.value();
    const rates = Object.entries(this.#rates).map(([rate, held]) => [rate, held / count]);
    return {
      ...(Object.fromEntries(rates) as Record<keyof ReturnType<typeof verdicts>, number>),
      mean_tokens: this.#tokens / count,
      ...{ distinct_1: distinct[0], distinct_2: distinct[1], repetition_4: repetition[3] },
      ...{ reply_perplexity: tokenPerplexity, reply_bits_per_byte: bitsPerByte },
      answers: count,
    };
  }
}

const verdicts = ({ stops, ends, clean, speaks }: JudgedAnswer) => ({
  format_rate: ends && clean && speaks,
  stopped_rate: stops,
  turn_end_rate: ends,
  clean_rate: clean,
  non_empty_rate: speaks,
});

/** What an answer adds to the sums behind each metric that is compared between models. */
type Row = Record<string, number[]>;

const rowOf = (answer: JudgedAnswer): Row => ({
  ...Object.fromEntries(Object.entries(verdicts(answer)).map(([rate, holds]) => [rate, [Number(holds)]])),
  mean_tokens: [answer.length],
  reply_bits_per_byte: [-answer.logLikelihood, answer.reply.size.bytes],
});

interface Named {
  /** What a person called the model. */
  name: string;
  path: string;
}

interface Measured {
  scores: ReturnType<ChatScores["value"]>;
  /** By the number of the conversation; kept for a comparison alone. */
  rows: Map<number, Row>;
  examples: Pick<JudgedAnswer, "asked" | "text">[];
  leftOut: Record<string, number>;
  speed: object;
  note: string[];
}

export interface ChatTools {
  makeGenerator: MakeGenerator;
  progress: ProgressLine;
}

/**
 * How a chat model answers the last question of conversations: whether it keeps to its template and stops by itself, how
 * long and how varied its answers are, and how well it predicts the given replies. With `before`, that model on the same
 * questions and whether the two differ. Memory grows with the distinct n-grams of the answers, and with `before` by a few
 * numbers an answer.
 */
export async function evaluateChat(
  model: Named,
  before: Named | null,
  flags: ChatFlags,
  tools: ChatTools,
): Promise<EvaluationReport> {
  const after = await measure(model, flags, tools, before !== null);
  const base = before && (await measure(before, flags, tools, true));
  const { scores, leftOut, speed, examples } = after;
  const { data, maxTokens: max_tokens, temperature, seed } = flags;
  const tests = base && compared(base, after, seed);
  const count = scores.answers.toLocaleString("en");
  return {
    title: `Chat of ${model.name}${before ? `, and of ${before.name} before` : ""}`,
    values: {
      ...{ task: "chat", model: model.name, data, max_tokens, temperature, seed },
      ...{ ...scores, left_out: leftOut, ...speed, examples },
      ...(base && { before: { model: before!.name, ...base.scores, examples: base.examples }, tests }),
    },
    tables: [
      tests && base ? comparisonTable(base.scores, scores, tests) : scoreTable(scores),
      ...(Object.keys({ ...leftOut, ...speed }).length > 0 ? [valueTable({ ...leftOut, ...speed })] : []),
    ],
    notes: [
      `${count} answers of at most ${max_tokens} tokens at temperature ${temperature}. format_rate: the model ends its answer itself with the template's turn-end token (stopped_rate: with any that ends texts), no other special token and no line that begins a turn is in it (clean_rate), and it says something.`,
      "reply_perplexity and reply_bits_per_byte are those of the given replies, without the token that ends them.",
      ...examples.map(({ asked, text }) => `Asked: ${asked} Answered: ${text}`),
      ...after.note,
      ...(base?.note ?? []),
    ],
  };
}

async function measure(
  { name, path }: Named,
  flags: ChatFlags,
  { makeGenerator, progress }: ChatTools,
  keepsRows: boolean,
): Promise<Measured> {
  const { model, tokenizer, note } = await withChat(await loadModel(path, flags.dtype));
  const generator = makeGenerator(model, tokenizer);
  const [scores, meter] = [new ChatScores(), new SpeedMeter()];
  const found: Omit<Measured, "scores" | "speed"> = {
    ...{ rows: new Map(), examples: [], leftOut: {} },
    note: note ? [`${name}: ${note}.`] : [],
  };
  const leaveOut = (what: string) => {
    found.leftOut[what] = (found.leftOut[what] ?? 0) + 1;
  };
  const total = await countChats(flags);
  const begin = progress.now();
  let done = 0;
  try {
    for await (const answer of answerChats({ model, tokenizer }, generator, flags, leaveOut, meter)) {
      scores.add(answer);
      if (keepsRows) found.rows.set(answer.index, rowOf(answer));
      if (found.examples.length < 3) found.examples.push({ asked: answer.asked, text: answer.text });
      const left = ((progress.now() - begin) / 1000 / ++done) * (total - done);
      progress.update(done / total, `${name}: ${done}/${total} answers  ETA ${duration(left)}`);
    }
    if (done === 0)
      throw new KilnError(
        `${flags.data.join(", ")}: no conversation that ${name} can be asked; give some with a message and its reply, no longer than its context`,
        { code: "corpus_empty" },
      );
    const speed = flags.speed ? { speed: await meter.value(model) } : {};
    return { ...found, scores: scores.value(), speed };
  } finally {
    progress.end();
    generator.close();
    dispose(model.parameters());
  }
}

async function countChats({ data, limit = Number.POSITIVE_INFINITY }: ChatFlags): Promise<number> {
  let count = 0;
  for await (const _ of mapChats(data, async () => {})) if (++count >= limit) break;
  return count;
}

const isRate = (metric: string) => metric.endsWith("_rate");
const bitsPerByte = ([nats, bytes]: readonly number[]) => nats / bytes / Math.LN2;

/** The tests of each metric on the conversations that both models answered. */
function compared(base: Measured, after: Measured, seed: number) {
  const both = [...base.rows.keys()].filter((index) => after.rows.has(index));
  const metrics = Object.keys(base.rows.values().next().value ?? {});
  return metrics.map((metric) => {
    const [a, b] = [base, after].map(({ rows }) => both.map((index) => rows.get(index)![metric]));
    const score = metric === "reply_bits_per_byte" ? { score: bitsPerByte } : {};
    const found = { metric, items: both.length, ...pairedBootstrap(a, b, { seed, ...score }) };
    if (!isRate(metric)) return { ...found, mcnemar: null };
    const test = new McNemar();
    for (const [i, [holds]] of a.entries()) test.add(holds === 1, b[i][0] === 1);
    return { ...found, mcnemar: test.value() };
  });
}

function scoreTable(scores: Measured["scores"]) {
  const rows = Object.entries(scores).map(([metric, value]) => {
    const interval = wilsonInterval(Math.round(value * scores.answers), scores.answers);
    return [metric, value, isRate(metric) ? interval : null];
  });
  return { head: ["metric", "value", "95% interval"], rows };
}

function comparisonTable(
  base: Measured["scores"],
  after: Measured["scores"],
  tests: ReturnType<typeof compared>,
) {
  const rows = Object.entries(after).map(([metric, value]) => {
    const test = tests.find((each) => each.metric === metric);
    const { difference, interval, pValue, mcnemar } = test ?? {};
    return [metric, base[metric as keyof typeof base], value, difference, interval, pValue, mcnemar?.exact];
  });
  const head = ["metric", "before", "after", "difference", "95% interval", "p (bootstrap)", "p (McNemar)"];
  return { head, rows };
}
