import { jaccard, shinglesOf } from "../../../tokenizer/text/index.ts";
import { DataCleaner, type DropReason, dropReasons } from "./cleaner.ts";
import type { DataConfig } from "./config.ts";
import { importConversations } from "./importer.ts";
import { type ConversationRecord, conversationWords, corrected, countsOf } from "./record.ts";

/** What cleaning does to conversations: in numbers to all, and shown of some. `total - kept` is the sum of `dropped`. */
export interface CleaningPreview {
  total: number;
  kept: number;
  dropped: Partial<Record<DropReason, number>>;
  changed: { conversation_id: string; role: string; before: string; after: string; changes: string[] }[];
  dropped_rows: { conversation_id: string; reason: DropReason; detail: string; text: string }[];
  duplicates: {
    similarity: number;
    kept: { conversation_id: string; text: string };
    dropped: { conversation_id: string; text: string };
  }[];
}

/** What `kiln data build` would do, and nothing is written. @param count how many rows of each kind are shown. */
export async function previewCleaning(
  given: readonly ConversationRecord[],
  { clean, quality, dedupe }: Pick<DataConfig, "clean" | "quality" | "dedupe">,
  count: number,
): Promise<CleaningPreview> {
  const records = given.map(corrected);
  const cleaner = new DataCleaner({ ...clean, ...quality, ...dedupe });
  const changed: CleaningPreview["changed"] = [];
  for (const { id, messages } of records)
    for (const { role, content } of messages) {
      if (changed.length === count) break;
      const { text, changes } = cleaner.clean(content);
      if (text !== content)
        changed.push({
          ...{ conversation_id: id, role, before: content, after: text },
          changes: changes.map((change) => `${change.rule} ${change.count}`),
        });
    }
  const against = dedupe.against.length === 0 ? [] : (await importConversations(dedupe.against)).records;
  const { kept, dropped } = await cleaner.filterConversations(records, { against });
  const byId = new Map([...against, ...records].map((record) => [record.id, record]));
  const textOf = (id: string) =>
    byId
      .get(id)
      ?.messages.map(({ content }) => content)
      .join("\n") ?? "";
  const shown = (id: string) => ({ conversation_id: id, text: textOf(id) });
  const shingles = (id: string) =>
    shinglesOf(conversationWords(cleaner.cleanConversation(byId.get(id)!).record));
  const near = dropped.filter(({ reason }) => reason === "near_duplicate").slice(0, count);
  const counts = countsOf(
    dropped.map(({ reason }) => reason),
    dropReasons,
  );
  return {
    ...{ total: records.length, kept: kept.length, dropped: counts, changed },
    dropped_rows: dropped.slice(0, count).map(({ id, reason, detail }) => ({ ...shown(id), reason, detail })),
    duplicates: near.map(({ id, detail }) => {
      const of = detail.slice("of ".length);
      return { similarity: jaccard(shingles(of), shingles(id)), kept: shown(of), dropped: shown(id) };
    }),
  };
}
