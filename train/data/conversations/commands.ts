import { tmpdir } from "node:os";
import { join } from "node:path";
import { KilnError, usageError } from "../../../core/errors.ts";
import { type Command, nonEmpty, say, whole } from "../../../core/platform/command_line.ts";
import type { DataConfig } from "./config.ts";
import { type ConversationMetadata, type ConversationRecord, countsOf } from "./record.ts";

type Counts = Partial<Record<string, number>>;

const print = (line: string) => void process.stdout.write(`${line}\n`);
const rooms = async () => await import("./index.ts");

/** What a server's store has, given its address or `store` for where the environment says: conversations with consent, or pairs. */
export type ReadStore = (address: string, what: "conversations" | "preferences") => Promise<object[]>;
let readStore: ReadStore;

/** `kiln data …`. Everything is imported when it is needed: `--help` is instant. */
export function addDataCommands(program: Command, stored: ReadStore): void {
  readStore = stored;
  const data = program
    .command("data")
    .description("conversations: log, clean, split and write them as data to train on");
  addLog(data);
  addImport(data);
  addClean(data);
  addExport(data);
  addFormat(data);
  addBuild(data);
  addStats(data);
  addPreview(data);
}

const filesArgument =
  "files or folders of conversations: JSON Lines, JSON, CSV, Parquet, text; store: those of the server that may become data";

const isStore = (source: string) => source === "store" || /^(sqlite:|postgres(ql)?:\/\/)/.test(source);

/** Files as they are; of a store its conversations, in a file that goes when this process ends. */
async function localFiles(sources: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for (const source of sources) {
    if (!isStore(source)) files.push(source);
    else {
      const { mkdtempSync, rmSync, writeFileSync } = await import("node:fs");
      const folder = mkdtempSync(join(tmpdir(), "kiln-store-"));
      process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
      files.push(join(folder, "store.jsonl"));
      const rows = await readStore(source, "conversations");
      if (rows.length === 0) say('no conversation in the store has its switch "Use as training data" on');
      writeFileSync(files.at(-1)!, jsonLines(rows), { mode: 0o600 });
    }
  }
  return files;
}

const jsonLines = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

interface SettingFlags {
  config?: string;
  set?: string[];
}

const withSettings = (command: Command) =>
  command
    .option("--config <file>", "YAML of settings, such as docs/configs/conversations.yaml", nonEmpty)
    .option("--set <name=value...>", "one setting, such as clean.region=DE or quality.max_length=4000");

async function settings({ config, set = [] }: SettingFlags): Promise<DataConfig> {
  const [{ loadDataConfig }, { parseOverrides }] = await Promise.all([
    rooms(),
    import("../../settings/load.ts"),
  ]);
  return loadDataConfig(config ?? null, parseOverrides(set));
}

const withMap = (command: Command) =>
  command.option("--map <name=field...>", "names of fields, such as prompt=question,response=answer");

/** `--map a=b,c=d e=f`. */
function fieldMap(given: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(
    given
      .flatMap((text) => text.split(","))
      .map((pair) => {
        const [to, from] = pair.split("=").map((part) => part.trim());
        if (to && from) return [to, from];
        throw usageError(`--map ${pair}: expected name=field, such as prompt=question`);
      }),
  );
}

/** Reads conversations and says what is left out, by kind of fault. */
async function read(files: readonly string[], map: Record<string, string> = {}) {
  const imported = await (await rooms()).importConversations(await localFiles(files), { map, say });
  sayFaults(imported.faults);
  return imported;
}

const shownFaults = 10;

function sayFaults(
  faults: readonly { file: string; row: number; path: string; code: string; message: string }[],
): void {
  for (const { file, row, path, code, message } of faults.slice(0, shownFaults))
    say(
      `left out: ${file} row ${row}: ${code}: ${path && !message.startsWith(path) ? `${path} ` : ""}${message}`,
    );
  if (faults.length > shownFaults) say(`and ${faults.length - shownFaults} faults more`);
}

/** "too_short 12, near_duplicate 9". */
const reasons = (counts: Counts) =>
  Object.entries(counts)
    .map(([reason, count]) => `${reason} ${count}`)
    .join(", ");

function summary(before: number, dropped: Counts): string {
  const all = Object.values(dropped).reduce<number>((sum, count = 0) => sum + count, 0);
  return `${before} conversations, ${all} dropped${all > 0 ? ` (${reasons(dropped)})` : ""}, ${before - all} kept`;
}

async function write(path: string | undefined, text: string): Promise<void> {
  if (path === undefined) process.stdout.write(text);
  else await (await import("../../../core/platform/files.ts")).atomicWriteFile(path, text);
}

async function* inputLines(): AsyncGenerator<{ value: unknown; line: number }> {
  const { createInterface } = await import("node:readline");
  let line = 0;
  for await (const text of createInterface({ input: process.stdin })) {
    line++;
    if (text.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new KilnError(
        `standard input line ${line} is not valid JSON: ${(error as Error).message.split("\n")[0]}`,
      );
    }
    yield { value, line };
  }
}

interface LogFlags {
  user?: string;
  assistant?: string;
  metadata?: string;
}

function addLog(data: Command): void {
  data
    .command("log")
    .argument("<log>", "the log, a JSON Lines file")
    .description("add a conversation to a log, or those that standard input has as JSON Lines")
    .option("--user <text>", "what was asked")
    .option("--assistant <text>", "what was answered")
    .option("--metadata <json>", 'such as \'{"session_id": "s1", "rating": 1}\'')
    .examples(
      "kiln data log chats.jsonl --user Hello --assistant 'Hi there!'",
      "kiln data log chats.jsonl < more.jsonl",
    )
    .action(async (path: string, { user, assistant, metadata }: LogFlags) => {
      if ((user === undefined) !== (assistant === undefined))
        throw usageError("give --user and --assistant together, or neither for standard input");
      const { ConversationLogger } = await rooms();
      const logger = new ConversationLogger(path);
      try {
        if (user !== undefined && assistant !== undefined)
          print(logger.log(user, assistant, metadataOf(metadata)));
        else
          for await (const { value, line } of inputLines()) {
            try {
              print(logger.logConversation(value as ConversationRecord));
            } catch (error) {
              throw new KilnError(`standard input line ${line}: ${(error as Error).message}`, {
                cause: error,
              });
            }
          }
      } finally {
        await logger.close();
      }
    });
}

function metadataOf(text = "{}"): ConversationMetadata {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      return value as ConversationMetadata;
  } catch {
    // said below
  }
  throw usageError(`--metadata ${text}: expected a JSON object such as {"session_id": "s1"}`);
}

function addImport(data: Command): void {
  withMap(data.command("import"))
    .argument("<files...>", filesArgument)
    .description("read conversations of any layout and write them in one, a JSON object a line")
    .option("--out <file>", "where; default: standard output", nonEmpty)
    .option("--json", "with --out, print what was read and all that is left out, as JSON")
    .examples(
      "kiln data import a.json b.csv c.txt --out chats.jsonl",
      "kiln data import faq.csv --map prompt=question,response=answer",
    )
    .action(async (files: string[], { map, out, json }: { map?: string[]; out?: string; json?: boolean }) => {
      if (json && out === undefined) throw usageError("--json needs --out, where the conversations go");
      const { records, faults } = await read(files, fieldMap(map));
      await write(out, jsonLines(records));
      if (json)
        print(
          JSON.stringify({
            conversations: records.length,
            faults: faults.map(({ row, code, message }) => ({ row, code, message })),
          }),
        );
      const invalid = new Set(faults.map(({ file, row }) => `${file} ${row}`)).size;
      say(
        `${records.length} conversations, ${invalid} left out${invalid > 0 ? ` (${reasons(countsOf(faults.map(({ code }) => code)))})` : ""}`,
      );
    });
}

interface CleanFlags extends SettingFlags {
  out?: string;
  jsonStrings?: boolean;
  explain?: boolean;
}

function addClean(data: Command): void {
  withSettings(data.command("clean"))
    .argument("[files...]", filesArgument)
    .description(
      "take private data and damage out of conversations, and leave low quality and duplicates out",
    )
    .option("--out <file>", "where; default: standard output", nonEmpty)
    .option("--json-strings", "instead: clean the JSON string on each line of standard input")
    .option(
      "--explain",
      "also say what was changed: with --json-strings in each line, else on standard output",
    )
    .examples(
      "kiln data clean chats.jsonl --out clean.jsonl",
      "echo '\"mail bob@example.com\"' | kiln data clean --json-strings --explain",
    )
    .action(async (files: string[], flags: CleanFlags) => {
      const { clean, quality, dedupe } = await settings(flags);
      const { DataCleaner, importConversations } = await rooms();
      const cleaner = new DataCleaner({ ...clean, ...quality, ...dedupe });
      if (flags.jsonStrings) {
        for await (const { value, line } of inputLines()) {
          if (typeof value !== "string") throw new KilnError(`standard input line ${line} is no JSON string`);
          const cleaned = cleaner.clean(value);
          print(JSON.stringify(flags.explain ? cleaned : cleaned.text));
        }
        return;
      }
      if (files.length === 0) throw usageError("give files to clean, or --json-strings for standard input");
      if (flags.explain && flags.out === undefined)
        throw usageError("--explain writes to standard output: give --out for the conversations");
      const { records } = await read(files);
      const against = dedupe.against.length === 0 ? [] : (await importConversations(dedupe.against)).records;
      const { kept, dropped } = await cleaner.filterConversations(records, { against });
      await write(flags.out, jsonLines(kept));
      if (flags.explain) {
        for (const record of records) {
          const { changes } = cleaner.cleanConversation(record);
          if (changes.length > 0) print(JSON.stringify({ id: record.id, changes }));
        }
        for (const one of dropped) print(JSON.stringify(one));
      }
      say(summary(records.length, countsOf(dropped.map(({ reason }) => reason))));
    });
}

function addExport(data: Command): void {
  withMap(data.command("export"))
    .argument("<files...>", filesArgument)
    .description("write conversations as files for other programs, in every format")
    .requiredOption("--out <folder>", "where", nonEmpty)
    .option("--formats <names>", "only these, such as chatml,csv,parquet")
    .choice("--feedback <kind>", "only pairs of answers by ratings and corrections", ["dpo"])
    .examples(
      "kiln data export chats.jsonl --out exports",
      "kiln data export chats.jsonl --feedback dpo --out exports",
      "kiln data export store --feedback dpo --out exports",
    )
    .action(
      async (
        files: string[],
        flags: { out: string; formats?: string; feedback?: string; map?: string[] },
      ) => {
        const [first] = files;
        if (flags.feedback && files.length === 1 && isStore(first)) {
          const rows = await readStore(first, "preferences");
          await write(join(flags.out, "preference.jsonl"), jsonLines(rows));
          return print(`${rows.length} pairs in ${join(flags.out, "preference.jsonl")}`);
        }
        const { DataExporter, exportFormats } = await rooms();
        const asked = flags.feedback ? "preference" : flags.formats;
        const formats = (asked?.split(",") ?? exportFormats) as typeof exportFormats;
        const { records } = await read(files, fieldMap(flags.map));
        const written = await new DataExporter(flags.out).exportAllFormats(records, formats);
        for (const { path, rows, sha256, skipped } of Object.values(written)) {
          print(`${sha256}  ${path}`);
          say(
            `${path}: ${rows} rows${skipped.length > 0 ? `, ${skipped.length} left out: ${skipped[0].why}` : ""}`,
          );
        }
      },
    );
}

function addFormat(data: Command): void {
  withSettings(data.command("format"))
    .argument("<files...>", filesArgument)
    .description("write conversations as rows to train on; what format.name and format.mode say")
    .option("--out <file>", "where; default: standard output", nonEmpty)
    .examples(
      "kiln data format chats.jsonl --set format.name=chatml --out rows.jsonl",
      "kiln data format chats.jsonl --set format.mode=every_turn",
    )
    .action(async (files: string[], flags: SettingFlags & { out?: string }) => {
      const { format } = await settings(flags);
      const { TrainingDataFormatter } = await rooms();
      const { records } = await read(files);
      let skipped = 0;
      const rows = new TrainingDataFormatter(format.name).createTrainingPairs(records, {
        mode: format.mode,
        skip: (id, why) => {
          skipped++;
          say(`left out: ${id}: ${why}`);
        },
      });
      await write(flags.out, jsonLines(rows));
      say(`${rows.length} rows of ${records.length} conversations, ${skipped} left out`);
    });
}

function addBuild(data: Command): void {
  data
    .command("build")
    .argument("<config>", "YAML of settings, such as docs/configs/conversations.yaml")
    .argument("[files...]", "conversations, instead of the sources that it names")
    .description("clean, split and format conversations into a dataset folder")
    .requiredOption("--out <folder>", "the folder, which is replaced as a whole", nonEmpty)
    .option("--set <name=value...>", "any setting, such as split.seed=1")
    .option("--json", "print the report as one JSON object")
    .examples(
      "kiln data build docs/configs/conversations.yaml --out runs/data1",
      "kiln data build settings.yaml chats.jsonl --out runs/data1 --json",
    )
    .action(async (file: string, files: string[], flags: { out: string; set?: string[]; json?: boolean }) => {
      const config = await settings({ config: file, ...(flags.set && { set: flags.set }) });
      if (files.length > 0)
        Object.assign(config, { sources: files, logger: { ...config.logger, path: undefined } });
      if (config.sources) config.sources = await localFiles(config.sources);
      const { configuredConversations, DatasetBuilder } = await import("./builder.ts");
      const imported = await configuredConversations(config, say);
      sayFaults(imported.faults);
      const report = await new DatasetBuilder(config).build(imported, flags.out);
      for (const warning of report.warnings) say(`note: ${warning}`);
      if (flags.json) return print(JSON.stringify(report));
      print(buildTable(report));
      nextSteps(config, flags.out).forEach(say);
    });
}

function buildTable({
  counts: { read: all, kept },
  invalid,
  dropped,
  splits,
  skipped,
}: import("./builder.ts").DatasetReport): string {
  const lines = Object.entries({ ...invalid, ...dropped }).map(
    ([reason, count]) => [`- ${reason}`, count] as const,
  );
  const rows = Object.entries(splits).map(
    ([name, split]) => [`${name}.jsonl`, `${split.rows} rows of ${split.conversations}`] as const,
  );
  const left = skipped.length > 0 ? [["not held by the format", skipped.length] as const] : [];
  return [["read", all] as const, ...lines, ["kept", kept] as const, ...left, ...rows]
    .map(([name, value]) => `${name.padEnd(24)} ${value}`)
    .join("\n");
}

/** The commands that go on from a dataset, as the configuration has them. */
function nextSteps(
  { training: { base }, evaluation: { compare_to, max_tokens }, deployment: { name, ollama } }: DataConfig,
  out: string,
): string[] {
  if (base === undefined)
    return [`next: kiln train sft MODEL --data ${out}/train.jsonl --validation-data ${out}/val.jsonl`];
  const run = `runs/${name ?? "tuned"}`;
  return [
    `next: kiln train sft ${out}/sft.yaml --out ${run}`,
    ...(compare_to
      ? [
          `then: kiln eval chat ${run}/model --data ${out}/test.jsonl --max-tokens ${max_tokens} --before ${compare_to}`,
        ]
      : []),
    ...(ollama.model
      ? [`then: kiln export ${run}/model --to ollama --dtype ${ollama.quantization} --out ${run}/ollama`]
      : []),
  ];
}

function addStats(data: Command): void {
  withMap(data.command("stats"))
    .argument("<files...>", filesArgument)
    .description("count conversations, turns, lengths, sessions, models, ratings, languages and duplicates")
    .option("--tokenizer <model>", "also count tokens, as this model does", nonEmpty)
    .option("--context <n>", "tokens that the model reads", whole(1), 1024)
    .option("--json", "print one JSON object")
    .action(
      async (
        files: string[],
        flags: { map?: string[]; tokenizer?: string; context: number; json?: boolean },
      ) => {
        const { conversationStatistics, TokenizerUtils } = await rooms();
        const { languageTeller } = await import("../../../tokenizer/text/index.ts");
        const { records } = await read(files, fieldMap(flags.map));
        const statistics = conversationStatistics(records, { languageOf: await languageTeller() });
        const texts = records.map(({ messages }) => messages.map(({ content }) => content).join("\n"));
        const utils = flags.tokenizer === undefined ? null : TokenizerUtils.load(flags.tokenizer);
        const tokens = utils && {
          truncation: await utils.truncation(texts, flags.context),
          histogram: await utils.histogram(texts),
        };
        const all = { ...statistics, ...(tokens && { tokens }) };
        if (flags.json) return print(JSON.stringify(all));
        for (const [name, value] of Object.entries(all))
          print(`${name.padEnd(26)} ${typeof value === "object" ? JSON.stringify(value) : value}`);
      },
    );
}

function addPreview(data: Command): void {
  withSettings(data.command("preview"))
    .argument("<files...>", filesArgument)
    .description("show what cleaning would change and leave out, and write nothing")
    .option("--count <n>", "changed messages to show, and conversations left out", whole(1), 10)
    .option("--json", "print one JSON object")
    .action(async (files: string[], flags: SettingFlags & { count: number; json?: boolean }) => {
      const config = await settings(flags);
      const { previewCleaning } = await import("./preview.ts");
      const { records } = await read(files);
      const found = await previewCleaning(records, config, flags.count);
      if (flags.json) return print(JSON.stringify(found));
      const shown = (text: string) => JSON.stringify(text);
      for (const { conversation_id: id, changes, before, after } of found.changed)
        print(`${id}: ${changes.join(", ")}\n  - ${shown(before)}\n  + ${shown(after)}`);
      for (const { conversation_id: id, reason, detail } of found.dropped_rows)
        print(`${id}: ${reason}: ${detail}`);
      const { total, kept, dropped_rows } = found;
      if (total - kept > dropped_rows.length) print(`and ${total - kept - dropped_rows.length} more`);
      print(summary(total, found.dropped));
    });
}
