import { createHash } from "node:crypto";
import { basename } from "node:path";
import { describe } from "../../../core/errors.ts";
import { firstLine, isObject } from "../../../core/platform/files.ts";
import { type Conversation, ConversationError, type Row } from "../../../tokenizer/index.ts";
import { rowsOf } from "../chat_rows.ts";
import { decodeFile, rawBytes, sourceFiles } from "../files.ts";
import { splitLines } from "../readers.ts";
import { detectLayout, type FieldMap, type Layout } from "./layouts.ts";
import { type ConversationRecord, inOrder, recordOf } from "./record.ts";
import { type Fault, validateConversations } from "./validate.ts";

/** A file that was read. */
export interface ImportedFile {
  /** Its name without folders. */
  name: string;
  rows: number;
  sha256: string;
  /** What was taken for what. */
  mapping: string;
}

export interface Imported {
  /** The sound conversations, in the order of the files. */
  records: ConversationRecord[];
  /** What is wrong with the others. A row with several faults is in it several times. */
  faults: (Fault & { file: string })[];
  files: ImportedFile[];
}

export interface ImportOptions {
  map?: FieldMap | undefined;
  /** Told the mapping of each file. */
  say?: ((line: string) => void) | undefined;
}

interface NumberedRow {
  row: number;
  values: unknown;
  fault?: string;
}

/** How many rows decide what a file holds. */
const sampled = 20;

/**
 * Reads conversations of files and folders in any layout that `detectLayout` knows, and leaves out those that are not sound, with
 * the reasons. Which of several with one id and different content stays does not depend on the order of the files.
 * @throws KilnError for a file that cannot be read or in which no row is a conversation.
 */
export async function importConversations(
  paths: readonly string[],
  options: ImportOptions = {},
): Promise<Imported> {
  const imported: Imported = { records: [], faults: [], files: [] };
  const places = new Map<ConversationRecord, { file: string; row: number }>();
  for (const file of sourceFiles(paths)) {
    const rows: NumberedRow[] = [];
    for await (const row of numberedRows(file)) rows.push(row);
    const sample = rows.flatMap(({ values }) => (isObject(values) ? [values] : [])).slice(0, sampled);
    const layout = sample.length === 0 ? null : layoutOf(sample, options.map ?? {}, file);
    const mapping = layout?.mapping ?? "nothing";
    options.say?.(`${file}: ${rows.length > 0 ? `${rows.length} rows, read as ${mapping}` : "no rows"}`);
    imported.files.push({ name: basename(file), rows: rows.length, sha256: await hashOf(file), mapping });
    const found = readRows(layout, rows, (fault) => imported.faults.push({ file, ...fault }));
    for (const { record, row } of found) {
      const faults = validateConversations([record]);
      for (const fault of faults) imported.faults.push({ file, ...fault, row });
      if (faults.length > 0) continue;
      imported.records.push(record);
      places.set(record, { file, row });
    }
  }
  imported.records = withoutClashes(imported, places);
  return imported;
}

function layoutOf(sample: readonly Row[], map: FieldMap, file: string): Layout {
  try {
    return detectLayout(sample, map, file);
  } catch (error) {
    if (!(error instanceof ConversationError)) throw error;
    throw new ConversationError(
      `${file}: ${error.message}; or name the fields, such as --map prompt=question,response=answer`,
      error,
    );
  }
}

/** Rows of a file; a line of JSON Lines that is no JSON is a fault and not the end. */
async function* numberedRows(file: string): AsyncGenerator<NumberedRow> {
  let row = 0;
  if (!/\.(jsonl|ndjson)(\.gz)?$/i.test(file)) {
    for await (const { values } of rowsOf(file)) yield { row: ++row, values };
    return;
  }
  for await (const line of splitLines(file, decodeFile(file))) {
    row++;
    if (line.trim() === "") continue;
    try {
      yield { row, values: JSON.parse(line) };
    } catch (error) {
      yield { row, values: undefined, fault: firstLine(error) };
    }
  }
}

/** `layout`: null where no row is an object. */
function readRows(
  layout: Layout | null,
  rows: readonly NumberedRow[],
  report: (fault: Fault) => void,
): { record: ConversationRecord; row: number }[] {
  const objects = rows.flatMap(({ row, values, fault }) => {
    if (isObject(values)) return [{ row, values }];
    const message = fault ?? `should be a JSON object, got ${describe(values)}`;
    report({ row, path: "", code: "not_json", message });
    return [];
  });
  if (layout === null) return [];
  if (layout.isTurns) return readTurns(objects);
  return objects.flatMap(({ row, values }) => {
    try {
      return [{ record: recordOf(layout.read(values)), row }];
    } catch (error) {
      if (!(error instanceof ConversationError)) throw error;
      const { message } = error;
      const path = message.match(/^[\w.[\]]+/)?.[0] ?? "";
      const code = /role/.test(path)
        ? /got undefined/.test(message)
          ? "missing_role"
          : "unknown_role"
        : /is empty/.test(message)
          ? "empty_content"
          : "bad_row";
      report({ row, path, code, message });
      return [];
    }
  });
}

/** Rows of one turn each, as `DataExporter` writes CSV: a quote before a sign that begins a formula is taken away again. */
function readTurns(
  rows: readonly { row: number; values: Row }[],
): { record: ConversationRecord; row: number }[] {
  const byId = new Map<string, { row: number; turns: Row[] }>();
  for (const { row, values } of rows) {
    const plain = Object.fromEntries(
      Object.entries(values).map(([name, value]) => [
        name,
        typeof value === "string" ? value.replace(/^'(?='*[=+\-@])/, "") : value,
      ]),
    );
    const id = String(plain.conversation_id);
    const known = byId.get(id) ?? { row, turns: [] };
    byId.set(id, known);
    known.turns.push(plain);
  }
  return [...byId].map(([id, { row, turns }]) => {
    const ordered = turns.sort((a, b) => Number(a.turn) - Number(b.turn));
    const messages = ordered.map(({ role, content }) => ({ role, content }));
    const { conversation_id, turn, role, content, ...metadata } = ordered[0];
    return { row, record: recordOf({ messages, metadata: { ...metadata, id } } as Conversation) };
  });
}

/** Of conversations with the same id and different content the first of `inOrder` stays; the others are faults. */
function withoutClashes(
  { records, faults }: Imported,
  places: ReadonlyMap<ConversationRecord, { file: string; row: number }>,
): ConversationRecord[] {
  const byId = new Map<string, ConversationRecord[]>();
  for (const record of records) byId.set(record.id, [...(byId.get(record.id) ?? []), record]);
  const clashing = new Set<ConversationRecord>();
  for (const [id, all] of byId) {
    const same = latest(all, clashing);
    const [kept, ...others] = same.length === 1 ? same : inOrder(same);
    const said = JSON.stringify(kept.messages);
    for (const other of others) {
      if (JSON.stringify(other.messages) === said) continue;
      clashing.add(other);
      const message = `${JSON.stringify(id)} is the id of another conversation too`;
      faults.push({ ...places.get(other)!, path: "id", code: "duplicate_id", message });
    }
  }
  return records.filter((record) => !clashing.has(record));
}

/** What stands of one conversation that a server logged again each time that it was added to or rated. */
function latest(same: ConversationRecord[], superseded: Set<ConversationRecord>): ConversationRecord[] {
  const times = same.map(({ metadata }) => metadata.updated_at);
  if (same.length === 1 || !times.every((time) => typeof time === "number")) return same;
  const last = same[times.lastIndexOf(Math.max(...times))]!;
  for (const one of same) if (one !== last) superseded.add(one);
  return [last];
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const bytes of rawBytes(file)) hash.update(bytes);
  return hash.digest("hex");
}
