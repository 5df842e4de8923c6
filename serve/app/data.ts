import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { AppendLog } from "../../core/platform/append_log.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import { dataFolder, type OpenStore } from "../store/index.ts";
import { AppError } from "./app_error.ts";
import { type Collected, collected, conversationLogPath, ownConversations, preferred } from "./collected.ts";
import { kiln } from "./data_command.ts";
import type { DataStatistics, DeployResult, ExportFormat, PreviewBody, PreviewResult } from "./protocol.ts";

/** Ranges of lengths; tokens that `kiln deploy ollama` compares after each prompt. */
const [LENGTHS, DEPLOY_TOKENS] = [10, 16];

export interface DataFile {
  readonly name: string;
  readonly bytes: Buffer;
}

/** `report.json` of a dataset, as `kiln data build --json` prints it. */
export type BuiltDataset = { folder: string } & Record<string, unknown>;

/**
 * The conversations of one user as training data: those whose switch for it is on. The work is done by `kiln data …` in a process of
 * its own, since a server has nothing of the trainer in it, and a million rows must not stop a chat.
 */
export class ConversationData {
  readonly #store: OpenStore;
  readonly #user: string;

  constructor(store: OpenStore, userId: string) {
    this.#store = store;
    this.#user = userId;
  }

  async statistics(): Promise<DataStatistics> {
    return this.#withFile(async (file, records) => {
      if (records.length === 0) return NOTHING;
      const { ratings, per_day, ...found } = JSON.parse(await kiln("data", "stats", file, "--json"));
      const { interval, ...counts } = ratings;
      return {
        ...found,
        ratings: { ...counts, low: interval?.[0] ?? null, high: interval?.[1] ?? null },
        per_day: Object.entries(per_day).map(([day, count]) => ({ day, count })),
        ...{ tokens: {}, lengths: lengthsOf(records) },
      };
    });
  }

  async preview({ rules = {}, sample = 50 }: PreviewBody): Promise<PreviewResult> {
    return this.#withFile(async (file, records) => {
      if (records.length === 0)
        return { total: 0, kept: 0, dropped: {}, changed: [], dropped_rows: [], duplicates: [] };
      return JSON.parse(
        await kiln("data", "preview", file, "--json", "--count", `${sample}`, ...settingsOf(rules)),
      );
    });
  }

  /** Builds a dataset in the data folder. @throws AppError 422 where no conversation is left. */
  async build(name: string, rules: NonNullable<PreviewBody["rules"]>): Promise<BuiltDataset> {
    return this.#withFile(async (file) => {
      // A user's name may be no name of a folder.
      const owner = createHash("sha256").update(this.#user).digest("hex").slice(0, 16);
      const folder = join(dataFolder(), "datasets", owner, name);
      const config = join(packageRoot, "docs/configs/conversations.yaml");
      const report = await kiln(
        "data",
        "build",
        config,
        file,
        "--out",
        folder,
        "--json",
        ...settingsOf(rules),
      );
      return { folder, ...JSON.parse(report) };
    });
  }

  /** A file of them in a format, and what it is called. @throws AppError 404 where there is none. */
  async export(format: ExportFormat): Promise<DataFile> {
    if (format === "preference") {
      const rows = await preferred(this.#store, this.#user, this.#pseudonym());
      return { name: "preference.jsonl", bytes: Buffer.from(linesOf(rows)) };
    }
    const records = await this.#records();
    return this.#exported(format, records, "no conversation of yours may be exported: switch it on there");
  }

  /** All conversations of the user, or one, as a file: what a person takes along. @throws AppError 404 where there is none. */
  async exportOwn(format: ExportFormat, id?: string): Promise<DataFile> {
    const records = await ownConversations(this.#store, this.#user, id);
    return this.#exported(format, records, "there is no answer to export yet");
  }

  #exported(format: ExportFormat, records: Collected[], nothing: string): Promise<DataFile> {
    if (records.length === 0) throw new AppError(404, "no_conversations", nothing);
    return this.#withFile(async (file) => {
      const folder = join(dirname(file), "exports");
      await kiln("data", "export", file, "--out", folder, "--formats", format);
      const [name] = await readdir(folder);
      return { name: name!, bytes: await readFile(join(folder, name!)) };
    }, records);
  }

  async #records(): Promise<Collected[]> {
    const records: Collected[] = [];
    for await (const record of collected(this.#store, this.#user, this.#pseudonym())) records.push(record);
    return records;
  }

  /** Does work on a file of the conversations, which goes afterwards. */
  async #withFile<T>(
    work: (file: string, records: Collected[]) => Promise<T>,
    records?: Collected[],
  ): Promise<T> {
    records ??= await this.#records();
    const folder = await mkdtemp(join(tmpdir(), "kiln-data-"));
    try {
      const file = join(folder, "conversations.jsonl");
      await writeFile(file, linesOf(records), { mode: 0o600 });
      return await work(file, records);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** The log's, whose key is made when it is first needed. */
  #pseudonym(): (user: string) => string {
    let log: AppendLog | null = null;
    return (user) => {
      log ??= new AppendLog(conversationLogPath(this.#store), { fsync: "never" });
      return log.pseudonym(user);
    };
  }
}

const linesOf = (rows: readonly unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

const none = { mean: 0, p50: 0, p95: 0, max: 0 };
const NOTHING: DataStatistics = {
  ...{ total_conversations: 0, total_messages: 0, turns: none, chars: {}, tokens: {}, sessions: 0 },
  ...{ models: {}, ratings: { up: 0, down: 0, rate: null, low: null, high: null }, languages: {} },
  ...{ per_day: [], duplicates: { exact: 0, near: 0 }, type_token_ratio: null, lengths: [] },
};

/** Conversations by their characters, in ranges of equal width. */
function lengthsOf(records: readonly Collected[]): DataStatistics["lengths"] {
  const lengths = records.map(({ messages }) =>
    messages.reduce((sum, { content }) => sum + [...content].length, 0),
  );
  const width = Math.max(1, Math.ceil((lengths.reduce((a, b) => Math.max(a, b)) + 1) / LENGTHS));
  return Array.from({ length: LENGTHS }, (_, i) => ({
    ...{ low: i * width, high: (i + 1) * width },
    count: lengths.filter((length) => Math.floor(length / width) === i).length,
  }));
}

/** Rules of the page as settings of `docs/configs/conversations.yaml`. */
function settingsOf(rules: NonNullable<PreviewBody["rules"]>): string[] {
  const { personal, min_chars, max_chars, near_duplicates } = rules;
  const kinds = ["secret", "url", "email", "iban", "card", "phone"];
  const keep = { keep_first: "first", keep_best: "best", drop_all: "drop_all", keep: "all" } as const;
  const set = [
    ...(personal ? kinds.map((kind) => `clean.${kind}=${personal}`) : []),
    ...(min_chars === undefined ? [] : [`quality.min_length=${min_chars}`]),
    ...(max_chars === undefined ? [] : [`quality.max_length=${max_chars}`]),
    ...(near_duplicates ? [`dedupe.keep=${keep[near_duplicates]}`] : []),
  ];
  return set.length === 0 ? [] : ["--set", ...set];
}

/** Gives a version to an Ollama. @throws AppError 422 with what was said where Ollama does not write there what kiln writes. */
export async function deployToOllama(
  version: string,
  name: string,
  { ollama_url: url, quantization = "f16" }: { ollama_url?: string; quantization?: string },
): Promise<DeployResult> {
  const to = url === undefined ? [] : ["--url", url];
  const { answers, ...done }: { name: string; url: string; answers: unknown[] } = JSON.parse(
    await kiln("deploy", "ollama", version, "--name", name, "--dtype", quantization, ...to, "--json"),
  );
  return {
    ...{ name: done.name, url: done.url, prompts_checked: answers.length },
    tokens_checked: answers.length * DEPLOY_TOKENS,
  };
}
