import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  ConversationLogger,
  DataCleaner,
  DataExporter,
  DatasetBuilder,
  importConversations,
  logFiles,
  TokenizerUtils,
  TrainingDataFormatter,
} from "../train/data/conversations/index.ts";
import { place, turns } from "./support/conversations.ts";

const rowsOf = (path: string) =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

/** A process that logs conversations until it is killed, or `count` of them. */
function writer(path: string, name: string, options: object, count = 1e9): ChildProcess {
  const code = `
    const { ConversationLogger } = await import(${JSON.stringify(new URL("../train/data/conversations/logger.ts", import.meta.url).href)});
    const logger = new ConversationLogger(${JSON.stringify(path)}, ${JSON.stringify(options)});
    for (let i = 0; i < ${count}; i++) {
      logger.log("question " + i + " " + "x".repeat(i % 700), "answer", { session_id: ${JSON.stringify(name)}, user_id: "u" });
      process.stdout.write(i + "\\n");
      if (i % 50 === 49) await new Promise((done) => setTimeout(done, 1));
    }
    await logger.close();`;
  return spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

const ended = (child: ChildProcess) => new Promise<void>((done) => child.on("close", () => done()));

describe("the log of conversations", () => {
  it("holds each as a line, with a pseudonym for its user", async () => {
    const path = place("log/a.jsonl");
    const logger = new ConversationLogger(path);
    const id = logger.log("Hi", "Hello!", { session_id: "s", user_id: "bob@example.com", rating: 1 });
    logger.logConversation({
      id: "mine",
      messages: turns("a", "b"),
      metadata: { created_at: 5, user_id: "bob@example.com" },
    });
    await logger.close();
    const [first, second] = rowsOf(path);
    expect(first).toMatchObject({
      id,
      messages: turns("Hi", "Hello!"),
      metadata: { session_id: "s", rating: 1 },
    });
    expect(first.metadata.user_id).toMatch(/^u-[0-9a-f]{16}$/);
    expect(Math.abs(first.metadata.created_at - Date.now())).toBeLessThan(60_000);
    expect(second).toEqual({
      id: "mine",
      messages: turns("a", "b"),
      metadata: { created_at: 5, user_id: first.metadata.user_id },
    });
    expect(readFileSync(path, "utf8")).not.toContain("bob");
    expect(statSync(place("log/pseudonym.key")).mode & 0o777).toBe(0o600);
    const later = new ConversationLogger(path);
    later.log("c", "d", { user_id: "bob@example.com" });
    await later.close();
    expect(rowsOf(path)[2].metadata.user_id).toBe(first.metadata.user_id);
    expect(() => later.log("e", "f")).toThrow(/was closed/);
    expect(() => new ConversationLogger(path).log(3 as never, "x")).toThrow(/content should be text/);
  });

  it("moves what a power cut left of a line aside, and counts it", async () => {
    const path = place("torn.jsonl");
    writeFileSync(path, `${JSON.stringify({ id: "a", messages: turns("Hi", "Hello!") })}\n{"id":"b","mess`);
    const logger = new ConversationLogger(path);
    logger.log("Bye", "Goodbye!");
    expect(rowsOf(path).length).toBe(2);
    expect(readFileSync(`${path}.torn`, "utf8")).toBe('{"id":"b","mess\n');
    expect(await logger.getConversationStats()).toMatchObject({ total_conversations: 2, torn_lines: 1 });
    await logger.close();
  });

  it("is put aside and packed where it is full or of another day, and stays one log", async () => {
    const path = place("full.jsonl");
    const logger = new ConversationLogger(path, { rotateBytes: 2000, fsync: "never" });
    for (let i = 0; i < 40; i++) logger.log(`question ${i}`, "answer", { created_at: i });
    await logger.close();
    const files = logFiles(path);
    expect(files.length).toBeGreaterThan(2);
    for (const file of files) expect(statSync(file).size).toBeLessThanOrEqual(2000);
    for (const file of files.slice(0, -1)) utimesSync(file, 1, 1);
    const again = new ConversationLogger(path, { rotateDaily: true });
    utimesSync(path, 1, 1);
    again.log("of today", "answer", { created_at: 40 });
    await again.close();
    const all = logFiles(path);
    expect(all.filter((file) => file.endsWith(".jsonl.gz")).length).toBe(files.length);
    const { records } = await importConversations(all);
    expect(records.map(({ metadata }) => metadata.created_at)).toEqual(
      Array.from({ length: 41 }, (_, i) => i),
    );
    expect(rowsOf(path).length).toBe(1);
  });

  it("goes on in the new file where another has put the old one aside", async () => {
    const path = place("followed.jsonl");
    const [first, second] = [500, 2 ** 20].map(
      (rotateBytes) => new ConversationLogger(path, { rotateBytes, fsync: "never" }),
    );
    for (let i = 0; logFiles(path).length === 1; i++) first.log(`question ${i}`, "answer");
    second.log("after that", "answer");
    expect(rowsOf(path).map(({ messages }) => messages[0].content)).toContain("after that");
    await Promise.all([first.close(), second.close()]);
  });

  it("loses no line of two processes that share it and put it aside, nor of one that is killed", async () => {
    const path = place("shared.jsonl");
    const options = { rotateBytes: 20_000, fsync: "never" };
    const [steady, other, killed] = [
      writer(path, "a", options, 300),
      writer(path, "b", options, 300),
      writer(path, "c", options),
    ];
    let said = "";
    killed.stdout!.on("data", (chunk) => {
      said += chunk;
      if (said.split("\n").length > 200) killed.kill("SIGKILL");
    });
    await Promise.all([steady, other, killed].map(ended));
    const logger = new ConversationLogger(path, { fsync: "never" });
    await logger.close();
    const { records, faults } = await importConversations(logFiles(path));
    expect(faults).toEqual([]);
    const of = (session: string) => records.filter(({ metadata }) => metadata.session_id === session).length;
    const acknowledged = said.split("\n").filter((line) => line !== "").length;
    expect([of("a"), of("b")]).toEqual([300, 300]);
    expect(of("c")).toBeGreaterThanOrEqual(acknowledged);
    expect(new Set(records.map(({ id }) => id)).size).toBe(records.length);
    expect(new Set(records.map(({ metadata }) => metadata.user_id)).size).toBe(1);
    expect(logFiles(path).length).toBeGreaterThan(2);
    expect(existsSync(`${path}.lock`)).toBe(false);
  });
});

/** What seed 002 shows of its Python classes, call by call. */
it("works as the system that it stands in for", async () => {
  const logger = new ConversationLogger(place("seed/conversations.jsonl"));
  logger.log_conversation(
    "What is machine learning? Write to me at ann@example.com or call 415-555-2671.",
    "Machine learning is the study of programs that learn from examples. See https://example.com/ml.",
    { session_id: "session_123" },
  );
  logger.log_conversation(
    "How do I train such a model?",
    "Collect examples, clean them, and fit a model to them.",
    { session_id: "session_123" },
  );
  const stats = await logger.get_conversation_stats();
  expect(stats.total_conversations).toBe(2);
  expect(stats.sessions).toBe(1);
  await logger.close();

  const { records: conversations } = await importConversations([logger.path]);
  const cleaner = new DataCleaner({ min_length: 10, max_length: 1000 });
  expect(cleaner.clean("Mail ann@example.com   now").text).toBe("Mail [EMAIL] now");
  const { kept, dropped } = await cleaner.filterConversations(conversations);
  expect([kept.length, dropped.length]).toEqual([2, 0]);
  expect(kept[0].messages[0].content).toBe(
    "What is machine learning? Write to me at [EMAIL] or call [PHONE].",
  );

  const files = await new DataExporter(place("seed/exports")).exportAllFormats(kept);
  for (const format of ["json", "csv", "chatml", "alpaca", "instruction"] as const)
    expect(existsSync(files[format]!.path)).toBe(true);

  const formatter = new TrainingDataFormatter("chatml");
  const pairs = formatter.createTrainingPairs(kept);
  expect(pairs.length).toBe(2);
  expect(formatter.validate(pairs)).toEqual([]);

  const tokens = await TokenizerUtils.byte().counts(pairs.map(({ text }) => String(text)));
  expect(tokens).toEqual(pairs.map(({ text }) => Buffer.byteLength(String(text))));

  const report = await new DatasetBuilder({ split: { exact: true, train: 0.5, val: 0.25 } }).build(
    kept,
    place("seed/dataset"),
  );
  expect(report.counts).toEqual({ read: 2, invalid: 0, dropped: 0, kept: 2 });
  expect(existsSync(place("seed/dataset/train.jsonl"))).toBe(true);
});
