import { execFile } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate, withChatTemplate } from "../tokenizer/index.ts";
import {
  type ConversationRecord,
  DataExporter,
  exportFormats,
  importConversations,
  preferenceRows,
  TokenizerUtils,
  TrainingDataFormatter,
  trainingFormats,
  validateConversations,
} from "../train/data/conversations/index.ts";
import { readPairs } from "../train/data/index.ts";
import { lines, place, record, turns } from "./support/conversations.ts";

const c1: ConversationRecord = {
  id: "c1",
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello!" },
  ],
  metadata: {},
};

describe("formats", () => {
  const want = {
    chatml: {
      text: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n",
    },
    alpaca: { instruction: "Hi", input: "", output: "Hello!", system: "Be brief.", history: [] },
    instruction: { text: "### System:\nBe brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!" },
    sharegpt: {
      id: "c1",
      conversations: [
        { from: "system", value: "Be brief." },
        { from: "human", value: "Hi" },
        { from: "gpt", value: "Hello!" },
      ],
    },
    openai: { messages: c1.messages },
    jsonl: { id: "c1", messages: c1.messages, metadata: {} },
  };
  it.each(trainingFormats)("%s has its exact layout", (format) => {
    expect(new TrainingDataFormatter(format).createTrainingPairs([c1])).toEqual([want[format]]);
    expect(new TrainingDataFormatter(format).validate([want[format]])).toEqual([]);
  });

  it("make a row of a dialogue, of its last answer, or of each", () => {
    const long = record("a", ["one", "two", "three", "four"]);
    const make = (format: "openai" | "alpaca", mode: "last_turn" | "every_turn" | "whole_dialogue") =>
      new TrainingDataFormatter(format).createTrainingPairs([long], { mode });
    expect(make("openai", "whole_dialogue")).toEqual([{ messages: long.messages }]);
    expect(
      make("openai", "every_turn").map((row) => (row.messages as ChatMessage[]).map(({ weight }) => weight)),
    ).toEqual([
      [undefined, undefined],
      [undefined, 0, undefined, undefined],
    ]);
    expect(make("alpaca", "last_turn")).toEqual([
      { instruction: "three", input: "", output: "four", system: "", history: [["one", "two"]] },
    ]);
  });

  const words = fc
    .string({ unit: "grapheme", minLength: 1 })
    .filter((text) => text.trim() !== "" && !text.includes("\r"));
  const risky = fc.constantFrom(
    "=1+1",
    "'=x",
    "-5",
    '"quoted", twice',
    "a\nb",
    "### Response:\nx",
    "<|im_end|>",
    " padded ",
  );
  const said = fc.array(fc.tuple(fc.oneof(words, risky), fc.oneof(words, risky)), {
    minLength: 1,
    maxLength: 3,
  });

  it("are read back as the same messages, or refused by name", async () => {
    let number = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(said, { minLength: 1, maxLength: 3 }), async (all) => {
        const list = all.map((pairs, i) => record(`r${i}`, pairs.flat()));
        const folder = place(`round${number++}`);
        const written = await new DataExporter(folder).exportAllFormats(list);
        for (const format of exportFormats.filter((name) => name !== "preference")) {
          const { path, skipped } = written[format]!;
          const refused = new Set(skipped.map(({ id }) => id));
          const kept = list.filter(({ id }) => !refused.has(id));
          if (!["chatml", "instruction"].includes(format)) expect(skipped).toEqual([]);
          if (kept.length === 0) continue;
          const { records, faults } = await importConversations([path]);
          expect(faults).toEqual([]);
          expect(
            records.map(({ messages }) => messages),
            format,
          ).toEqual(kept.map(({ messages }) => messages));
        }
        rmSync(folder, { recursive: true });
      }),
      { numRuns: 10 },
    );
  });

  it("keep names, ratings and times in CSV and Parquet, and make spreadsheets run nothing", async () => {
    const list = [
      record("a", ["=cmd()", "ok"], {
        session_id: "s",
        model: "m",
        rating: -1,
        created_at: 1_700_000_000_123,
      }),
      record("b", ["+1", "@x"]),
    ];
    const { csv, parquet } = await new DataExporter(place("tables")).exportAllFormats(list, [
      "csv",
      "parquet",
    ]);
    expect(readFileSync(csv!.path, "utf8").split("\n").slice(0, 3)).toEqual([
      "conversation_id,turn,role,content,session_id,model,rating,created_at",
      "a,0,user,'=cmd(),s,m,-1,1700000000123",
      "a,1,assistant,ok,s,m,-1,1700000000123",
    ]);
    expect((await importConversations([csv!.path])).records).toEqual(list);
    const [a] = (await importConversations([parquet!.path])).records;
    expect([a.id, a.messages, a.metadata.rating, a.metadata.created_at]).toEqual([
      "a",
      list[0].messages,
      -1,
      1_700_000_000_123,
    ]);
  });

  it("give preferences that kiln train preference reads", async () => {
    const list = [
      record("a", ["2+2?", "5"], { correction: "4", rating: -1 }),
      record("b", ["Hi", "Go away"], { rating: -1 }),
      record("c", ["Hi", "Hello!"], { rating: 1 }),
      record("d", ["Bye", "Bye!"], { rating: 1 }),
    ];
    const rows = preferenceRows(list);
    expect(
      rows.map(({ chosen, rejected }) =>
        [chosen, rejected].map((side) => (side as ChatMessage[])[0].content),
      ),
    ).toEqual([
      ["4", "5"],
      ["Hello!", "Go away"],
    ]);
    const { preference } = await new DataExporter(place("dpo")).exportAllFormats(list, ["preference"]);
    const { tokenizer } = TokenizerUtils.bpe(["hello"], 256);
    const { pairs } = await readPairs([preference!.path], new ChatTemplate(withChatTemplate(tokenizer)), 256);
    expect(pairs.length).toBe(2);
  });
});

describe("importing", () => {
  it("reads the layouts of the field, says what it took for what, and takes a mapping", async () => {
    const files: [string, string][] = [
      [
        lines("openorca.jsonl", [{ id: 1, system_prompt: "S", question: "Q", response: "R" }]),
        "prompt=question, response=response, system=system_prompt",
      ],
      [lines("dolly.json", [[{ instruction: "Q", context: "", response: "R", category: "x" }]]), "dolly"],
      [lines("daily.jsonl", [{ dialog: ["Q", "R"] }]), "turns of dialog"],
      [
        lines("parlai.jsonl", [
          {
            dialog: [
              [
                { id: "A", text: "Q" },
                { id: "B", text: "R" },
              ],
            ],
          },
        ]),
        "turns of dialog",
      ],
      [
        lines("taskmaster.json", [
          [
            {
              conversation_id: "t",
              utterances: [
                { speaker: "user", text: "Q" },
                { speaker: "assistant", text: "R" },
              ],
            },
          ],
        ]),
        "turns of utterances",
      ],
      [lines("faq.csv", ["question,answer", "Q,R"]), "prompt=question, response=answer"],
      [lines("text.txt", ["User: Q", "Assistant: R"]), "text"],
      [
        lines("chatml.jsonl", [
          { text: "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nR<|im_end|>\n" },
        ]),
        "chatml",
      ],
    ];
    for (const [file, mapping] of files) {
      const found = await importConversations([file]);
      expect(found.files[0].mapping, file).toBe(mapping);
      expect(
        found.records[0].messages.filter(({ role }) => role !== "system"),
        file,
      ).toEqual(turns("Q", "R"));
    }
    const odd = lines("odd.jsonl", [{ frage: "Q", antwort: "R", thema: "x" }]);
    await expect(importConversations([odd])).rejects.toThrow(/frage, antwort, thema.*--map prompt=question/);
    const map = { prompt: "frage", response: "antwort" };
    const {
      records,
      files: [{ mapping }],
    } = await importConversations([odd], { map });
    expect([records[0].messages, records[0].metadata]).toEqual([turns("Q", "R"), { thema: "x" }]);
    expect(mapping).toContain("prompt=frage");
    await expect(importConversations([odd], { map: { prompt: "frge" } })).rejects.toThrow(
      /did you mean frage/,
    );
  });

  it("names row, place and kind of every fault, and loses none", async () => {
    const message = (role: unknown, content: unknown) => ({ role, content });
    const file = lines("faults.jsonl", [
      { id: "a", messages: turns("Q", "R") },
      "{broken",
      { id: "b", messages: [message("robot", "Q"), message("assistant", "R")] },
      { id: "c", messages: [message(undefined, "Q"), message("assistant", "R")] },
      { id: "d", messages: turns("Q", " ") },
      { id: "e", messages: turns("Q") },
      { id: "f", messages: [...turns("Q", "R"), message("assistant", "again")] },
      { id: "a", messages: turns("Q", "something else") },
      "",
      { id: "g", messages: turns("Q", "R") },
    ]);
    const byTurn = lines("turns.jsonl", [
      { conversation_id: "a", turn: 1, role: "user", content: "x" },
      "no json",
      { conversation_id: "a", turn: 2, role: "assistant", content: "y" },
    ]);
    const ofTurns = await importConversations([byTurn]);
    expect([ofTurns.records.length, ofTurns.faults.map(({ row, code }) => [row, code])]).toEqual([
      1,
      [[2, "not_json"]],
    ]);
    const { records, faults } = await importConversations([file]);
    expect(records.map(({ id }) => id)).toEqual(["a", "g"]);
    expect(faults.map(({ row, path, code }) => [row, path, code])).toEqual([
      [2, "", "not_json"],
      [3, "messages[0].role", "unknown_role"],
      [4, "messages[0].role", "missing_role"],
      [5, "messages[1].content", "empty_content"],
      [6, "messages", "no_assistant"],
      [7, "messages[2].role", "bad_order"],
      [8, "id", "duplicate_id"],
    ]);
    expect(
      validateConversations([{ id: "a", messages: turns("Q", "too long") }], 5).map(({ code }) => code),
    ).toEqual(["too_long"]);
    expect(
      new TrainingDataFormatter("alpaca")
        .validate([{ instruction: "Q", output: "" }, { x: 1 }, 3])
        .map(({ row, code }) => [row, code]),
    ).toEqual([
      [1, "empty_content"],
      [2, "bad_row"],
      [3, "not_json"],
    ]);
  });

  const data = join(import.meta.dirname, "../../shared/data");
  it.skipIf(!existsSync(data))(
    "reads real dialogues and instructions (skipped: no ../shared/data)",
    async () => {
      const sets: [string, number][] = [
        ["dialogue/taskmaster4_data_00.json.gz", 500],
        ["dialogue/blended_skill_talk_selfchat_model1.jsonl", 5],
        ["instruct/alpaca_en_demo.json.gz", 999],
        ["instruct/sharegpt_dummy_conversation.json", 500],
      ];
      for (const [file, rows] of sets) {
        const { records, files, faults } = await importConversations([join(data, file)]);
        const lost = new Set(faults.map(({ row }) => row)).size;
        expect([files[0].rows, records.length + lost], file).toEqual([rows, rows]);
        expect(records.length / rows, file).toBeGreaterThan(0.9);
      }
    },
  );
});

/** Runs kiln without an adapter. */
function kiln(args: string[], input = ""): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((done) => {
    const child = execFile(
      process.execPath,
      ["bin/kiln.mjs", ...args],
      { env: { ...process.env, KILN_ADAPTER: "none" } },
      (error, stdout, stderr) =>
        done({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr }),
    );
    child.stdin?.end(input);
  });
}

describe("kiln data", () => {
  it("cleans JSON strings line by line", async () => {
    const input = '"mail bob@example.com"\n\n"a\\u200bb"\n"lone \\ud83d"\n';
    const clean = ["data", "clean", "--json-strings"];
    const [plain, explained, wrong] = await Promise.all([
      kiln(clean, input),
      kiln([...clean, "--explain", "--set", "clean.email=remove"], input),
      kiln(clean, '"a"\n3\n'),
    ]);
    expect(plain.stdout).toBe('"mail [EMAIL]"\n"ab"\n"lone \ufffd"\n');
    expect(JSON.parse(explained.stdout.split("\n")[0])).toEqual({
      text: "mail",
      changes: [
        { rule: "email", count: 1, from: "bob@example.com", to: "" },
        { rule: "spacing", count: 1, from: "mail ", to: "mail" },
      ],
    });
    expect([wrong.code, wrong.stderr]).toEqual([1, "kiln: standard input line 2 is no JSON string\n"]);
  });
});
