import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { forEachNearPair, shinglesOf } from "../../tokenizer/text/index.ts";
import {
  ConversationLogger,
  type ConversationRecord,
  DataCleaner,
  DatasetBuilder,
  TrainingDataFormatter,
} from "../../train/data/conversations/index.ts";
import { hash32 } from "../../train/data/permutation.ts";
import { story } from "../../train/data/stories/grammar.ts";
import type { AppRow } from "./index.ts";

/** A question and an answer of some 400 characters together, each of its own words. */
function conversation(i: number): ConversationRecord {
  const [question, answer] = [story(1, i).slice(0, 120), story(2, i).slice(0, 280)];
  return {
    id: `c${i}`,
    messages: [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ],
    metadata: { session_id: `s${i % 40}`, created_at: i },
  };
}

const privateText = (
  "Could you tell me how machine learning works, please? I read https://example.com/ml and wrote to bob@example.com about it. " +
  "He said that I should call the office before noon, and bring all that I have with me on the day. "
)
  .repeat(2)
  .slice(0, 400);
const phones =
  "Call 415-555-2671, +49 30 901820, +44 20 7946 0958, (415) 555-2671 or +33 1 42 68 53 00 today.";

/** Texts of 50 words: of five, one repeats another with two words changed. */
function nearTexts(count: number): Set<string>[] {
  const word = (...key: number[]) => `w${hash32(...key) % 20_000}`;
  return Array.from({ length: count }, (_, i) => {
    const original = i % 5 === 4 ? i - 4 : i;
    return shinglesOf(
      Array.from({ length: 50 }, (_, at) =>
        original !== i && at >= 48 ? word(i, at, 1) : word(original, at),
      ),
    );
  });
}

/** The steps of conversation data (apps: section 9), with what seed 002 states for its Python. */
export function dataRows(): AppRow[] {
  const hundred = Array.from({ length: 100 }, (_, i) => conversation(i));
  const cleaner = new DataCleaner();
  const formatter = new TrainingDataFormatter("chatml");
  const each = (work: (one: ConversationRecord) => unknown) => ({
    items: hundred.length,
    run: () => void hundred.map(work),
  });
  const text = (given: string) => ({ items: 100, run: () => void hundred.map(() => cleaner.clean(given)) });
  return [
    { name: "log one conversation", seed: 1, target: 0.05, prepare: logging },
    { name: "clean 400 characters", seed: 5, target: 0.5, prepare: () => text(privateText) },
    { name: "clean 5 phone numbers", seed: 5, target: 0.5, prepare: () => text(phones) },
    {
      name: "format one conversation",
      seed: 2,
      target: 0.02,
      prepare: () => each((one) => formatter.createTrainingPairs([one])),
    },
    { name: "build 100", seed: 10, target: 1, prepare: () => building({ keep: "first" }) },
    {
      name: "build 100, near duplicates looked for",
      target: 8,
      prepare: () => building({ keep: "all" }),
    },
    {
      name: "near duplicates of 10,000",
      target: 10_000,
      prepare: () => ({ items: 1, run: () => forEachNearPair(nearTexts(10_000), 0.8, () => {}) }),
    },
  ];

  function building(dedupe: { keep: "first" | "all" }) {
    const builder = new DatasetBuilder({ dedupe });
    return { items: 1, run: () => void builder.splitAndFormat(hundred) };
  }

  function logging() {
    const folder = mkdtempSync(join(tmpdir(), "kiln-bench-"));
    const logger = new ConversationLogger(join(folder, "log.jsonl"));
    return {
      ...each(({ messages }) =>
        logger.logConversation({ messages, metadata: { session_id: "s", user_id: "u" } }),
      ),
      dispose: async () => {
        await logger.close();
        rmSync(folder, { recursive: true });
      },
    };
  }
}
