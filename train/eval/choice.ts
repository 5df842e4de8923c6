import { KilnError } from "../../core/errors.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { findColumn, readTable, type TableRow } from "../data/index.ts";
import { MultipleChoice } from "../metrics/choice.ts";
import { wilsonInterval } from "../metrics/significance.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";
import { logLikelihoods, type Piece } from "./likelihood.ts";
import type { Scorer } from "./perplexity.ts";
import { SpeedMeter } from "./speed.ts";

interface Question {
  context: string;
  choices: string[];
  /** Indices of the right choices. */
  answers: number[];
}

/** A question with the log-likelihoods of its choices after it, in nats; `index` counts the questions of the data. */
export interface ScoredQuestion extends Question {
  index: number;
  logLikelihoods: number[];
}

/**
 * The log-likelihood of each choice after its context, joined by a space where neither brings one. Context and choice are
 * encoded together, as in lm-eval, after the begin token where the tokenizer puts one before texts. Questions that do not fit
 * into the model's context are left out and reported.
 */
export async function* scoreChoices(
  scorer: Scorer,
  files: readonly string[],
  leaveOut: (what: string) => void,
  meter?: SpeedMeter,
): AsyncGenerator<ScoredQuestion> {
  let found: number[] = [];
  for await (const { piece, logLikelihood } of logLikelihoods(
    scorer.model,
    pieces(scorer, files, leaveOut),
    meter,
  )) {
    found.push(logLikelihood);
    if (found.length < piece.question.choices.length) continue;
    yield { ...piece.question, index: piece.index, logLikelihoods: found };
    found = [];
  }
}

async function* pieces(
  { model, tokenizer }: Scorer,
  files: readonly string[],
  leaveOut: (what: string) => void,
): AsyncGenerator<Piece & { question: Question; index: number }> {
  let index = 0;
  for (const file of files) {
    const table = await readTable(file);
    const columns = ["context", "choices", "answer"].map((name) => findColumn(table, name));
    for await (const row of table.rows(columns)) {
      const question = parseQuestion(row, columns);
      const encoded = await encodeChoices(tokenizer, question);
      index++;
      if (encoded.some(({ tokens }) => tokens.length - 1 > model.shape.max_position_embeddings))
        leaveOut("questions longer than the model's context");
      else for (const piece of encoded) yield { ...piece, question, index };
    }
  }
  if (index > 0) return;
  throw new KilnError(
    `${files.join(", ")}: no question; give lines such as {"context": "The sky is", "choices": ["blue", "green"], "answer": 0}`,
  );
}

function parseQuestion({ values, where }: TableRow, columns: readonly string[]): Question {
  const [context, choices, answer] = columns.map((column) => values[column]);
  const refuse = (problem: string) => new KilnError(`${where}: ${problem}`, { code: "question_invalid" });
  if (typeof context !== "string") throw refuse("context must be a text, which may be empty");
  if (
    !Array.isArray(choices) ||
    choices.length < 2 ||
    choices.some((each) => typeof each !== "string" || each === "")
  )
    throw refuse("choices must be a list of two texts or more, none of them empty");
  const answers = [answer]
    .flat()
    .map((each) => (typeof each === "string" ? choices.indexOf(each) : Number(each)));
  if (answers.length === 0 || answers.some((each) => choices[each] === undefined))
    throw refuse(
      `answer ${JSON.stringify(answer)} is none of the choices; give the index (0 to ${choices.length - 1}) or the text of the right one`,
    );
  return { context, choices, answers };
}

async function encodeChoices(tokenizer: Tokenizer, { context, choices }: Question): Promise<Piece[]> {
  const whole = choices.map((choice) => {
    const joined = context === "" || /\s$/.test(context) || /^\s/.test(choice);
    return context + (joined ? "" : " ") + choice;
  });
  // White space at the end of the context is a part of the choice, since tokens begin with it.
  const texts = [context.trimEnd(), ...whole];
  const [before, ...encoded] = await tokenizer.encodeBatch(texts, { addSpecialTokens: false });
  // Without a context the first token needs another before it.
  const prefix = tokenizer.addsBos || before.length === 0 ? (tokenizer.bosId ?? tokenizer.eosId) : null;
  const begin = prefix === null ? [] : [prefix];
  return encoded.map((ids) => {
    const tokens = [...begin, ...ids];
    return { tokens, from: Math.max(1, Math.min(begin.length + before.length, tokens.length - 1)) };
  });
}

/** Multiple choice by likelihood: the shares of questions whose likeliest choice is right. */
export async function evaluateChoice(
  scorer: Scorer,
  name: string,
  flags: { data: string[]; speed?: boolean },
): Promise<EvaluationReport> {
  const leftOut: Record<string, number> = {};
  const meter = new SpeedMeter();
  const sums = new MultipleChoice();
  const leaveOut = (what: string) => {
    leftOut[what] = (leftOut[what] ?? 0) + 1;
  };
  for await (const { choices, logLikelihoods, answers } of scoreChoices(scorer, flags.data, leaveOut, meter))
    sums.add(choices, logLikelihoods, answers);
  const { acc, accNorm, accBytes, count } = sums.value();
  const scores = { acc, acc_norm: accNorm, acc_bytes: accBytes };
  const rows = Object.entries(scores).map(([metric, value]) => [
    metric,
    value,
    wilsonInterval(Math.round(value * count), count),
  ]);
  const speed = flags.speed ? { speed: await meter.value(scorer.model) } : {};
  return {
    title: `Multiple choice of ${name}`,
    values: {
      task: "choice",
      model: name,
      data: flags.data,
      ...scores,
      questions: count,
      left_out: leftOut,
      ...speed,
    },
    tables: [
      { head: ["metric", "value", "95% interval"], rows },
      valueTable({ questions: count, ...leftOut, ...speed.speed }),
    ],
    notes: [
      "acc takes the likeliest choice, acc_norm the likeliest per character and acc_bytes per byte, as in lm-eval; intervals are Wilson's.",
    ],
  };
}
