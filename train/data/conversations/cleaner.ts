import {
  type Change,
  type CleanedText,
  type CleanOptions,
  cleanText,
  distinctWords,
  isEcho,
  isRefusal,
  languageTeller,
  privateKinds,
  repetition,
  symbolShare,
  type TellLanguage,
} from "../../../tokenizer/text/index.ts";
import { type CleanerOptions, type CleanerSettings, cleanerSettings } from "./config.ts";
import { findDuplicates } from "./duplicates.ts";
import type { ConversationRecord } from "./record.ts";
import { type ToxicityModel, toxicityModel, toxicWord } from "./toxicity.ts";

/** Why a conversation is left out, in the order in which the reasons are tried. */
export const dropReasons = [
  "private_data",
  "empty",
  "too_short",
  "too_long",
  "low_information",
  "repetitive",
  "symbols",
  "language",
  "toxic",
  "refusal_or_echo",
  "exact_duplicate",
  "near_duplicate",
  "rating",
] as const;
export type DropReason = (typeof dropReasons)[number];

/** A conversation that was left out. */
export interface Dropped {
  id: string;
  reason: DropReason;
  /** What was measured, beside what is wanted. */
  detail: string;
}

export interface Filtered {
  /** What stays, cleaned, in the order of the list. */
  kept: ConversationRecord[];
  dropped: Dropped[];
}

/** What is loaded when it is needed; null where no setting asks for it. */
interface Judges {
  languageOf: TellLanguage | null;
  toxicity: ToxicityModel | null;
}

type Verdict = [reason: DropReason, detail: string] | null;

const share = (value: number) => value.toFixed(2);

/** Cleans texts and conversations, and leaves out those of low quality. Cleaning is fixed in `cleanText`'s order. */
export class DataCleaner {
  readonly settings: CleanerSettings;
  readonly #cleaning: CleanOptions;
  #judges: Promise<Judges> | undefined;

  /** @throws KilnError for an option that does not exist or cannot be used. */
  constructor(options: CleanerOptions = {}) {
    this.settings = cleanerSettings(options);
    const modes = Object.fromEntries(privateKinds.map((kind) => [kind, this.settings[kind]]));
    this.#cleaning = { modes, region: this.settings.region };
  }

  /** The text without private data and damage, and what was changed. Cleaning it again changes nothing. Never throws. */
  clean(text: string): CleanedText {
    return cleanText(text, this.#cleaning);
  }

  /** A conversation with all turns cleaned and trimmed; `drop` is the kind of private data for which it is to be left out. */
  cleanConversation(record: ConversationRecord): {
    record: ConversationRecord;
    changes: Change[];
    drop?: string;
  } {
    const cleaned = record.messages.map(({ content }) => this.clean(content));
    const drop = cleaned.find((one) => one.drop)?.drop;
    return {
      record: {
        ...record,
        messages: record.messages.map((message, i) => ({ ...message, content: cleaned[i].text.trim() })),
      },
      changes: cleaned.flatMap(({ changes }) => changes),
      ...(drop && { drop }),
    };
  }

  /** Whether a text has an obscene word. The classifier, if one is set, is asked in `filterConversations` alone. */
  hasToxicWord(text: string): boolean {
    return toxicWord(text) !== null;
  }

  /**
   * Cleans conversations and leaves out what is private, of low quality or a duplicate: each of `list` is in `kept` or in
   * `dropped`, with the first reason that holds. `against`: conversations that what is kept may not repeat.
   */
  async filterConversations(
    list: readonly ConversationRecord[],
    { against = [] }: { against?: readonly ConversationRecord[] } = {},
  ): Promise<Filtered> {
    const cleaned = list.map((record) => this.cleanConversation(record));
    const verdicts = await this.#verdicts(cleaned);
    const rest = cleaned.flatMap(({ record }, i) => (verdicts[i] ? [] : [record]));
    const duplicates = findDuplicates(rest, this.settings, {
      others: against.map((record) => this.cleanConversation(record).record),
      leastRating: this.settings.min_rating,
    });
    const kept: ConversationRecord[] = [];
    const dropped: Dropped[] = [];
    for (const [i, { record }] of cleaned.entries()) {
      const duplicate = duplicates.get(record);
      const { rating = 0 } = record.metadata;
      const verdict: Verdict =
        verdicts[i] ??
        (duplicate
          ? [duplicate.reason, `of ${duplicate.of}`]
          : rating < this.settings.min_rating
            ? ["rating", `${rating} is below ${this.settings.min_rating}`]
            : null);
      if (verdict) dropped.push({ id: record.id, reason: verdict[0], detail: verdict[1] });
      else kept.push(record);
    }
    return { kept, dropped };
  }

  async #verdicts(cleaned: readonly { record: ConversationRecord; drop?: string }[]): Promise<Verdict[]> {
    const { languages, toxic_model, harmless_labels } = this.settings;
    this.#judges ??= (async () => ({
      languageOf: languages.length > 0 ? await languageTeller() : null,
      toxicity: toxic_model === "" ? null : await toxicityModel(toxic_model, harmless_labels),
    }))();
    const { languageOf, toxicity } = await this.#judges;
    const judge = (record: ConversationRecord, drop?: string): Verdict =>
      drop ? ["private_data", drop] : (this.#form(record) ?? this.#language(record, languageOf));
    const verdicts = cleaned.map(({ record, drop }) => judge(record, drop));
    for (const [i, { record }] of cleaned.entries())
      verdicts[i] ??= (await this.#toxic(record, toxicity)) ?? this.#answers(record);
    return verdicts;
  }

  /** Length, information, repetition and signs of each message of a person or the assistant. */
  #form({ messages }: ConversationRecord): Verdict {
    const s = this.settings;
    const tests: ((text: string) => Verdict)[] = [
      (text) => (text === "" ? ["empty", "nothing is left of a message"] : null),
      (text) =>
        text.length < 2 * s.min_length && [...text].length < s.min_length
          ? ["too_short", `${[...text].length} characters, fewer than ${s.min_length}`]
          : null,
      (text) =>
        text.length > s.max_length && [...text].length > s.max_length
          ? ["too_long", `${[...text].length} characters, more than ${s.max_length}`]
          : null,
      (text) => {
        const distinct = distinctWords(text);
        return distinct !== null && distinct < s.min_distinct_words
          ? ["low_information", `distinct words ${share(distinct)}, fewer than ${s.min_distinct_words}`]
          : null;
      },
      (text) => {
        const { duplicated, top } = repetition(text);
        if (duplicated > s.max_repetition)
          return ["repetitive", `repeated runs of five words ${share(duplicated)}, over ${s.max_repetition}`];
        return top > s.max_top_pair
          ? ["repetitive", `the most frequent two words ${share(top)}, over ${s.max_top_pair}`]
          : null;
      },
      (text) => {
        const symbols = symbolShare(text);
        return symbols > s.max_symbols
          ? ["symbols", `symbols ${share(symbols)}, over ${s.max_symbols}`]
          : null;
      },
    ];
    const texts = messages.flatMap(({ role, content, tool_calls: calls }) =>
      (role === "user" || role === "assistant") && !(calls && content === "") ? [content] : [],
    );
    for (const test of tests)
      for (const text of texts) {
        const verdict = test(text);
        if (verdict) return verdict;
      }
    return null;
  }

  #language({ messages }: ConversationRecord, languageOf: TellLanguage | null): Verdict {
    if (!languageOf) return null;
    const language = languageOf(messages.map(({ content }) => content).join("\n"));
    return language === "und" || this.settings.languages.includes(language)
      ? null
      : ["language", `${language} is none of ${this.settings.languages.join(", ")}`];
  }

  /** By the list of words and the classifier together where there is one, else by the list alone. */
  async #toxic({ messages }: ConversationRecord, toxicity: ToxicityModel | null): Promise<Verdict> {
    const { toxic_words, toxic_with_word, toxic_alone } = this.settings;
    const texts = messages.map(({ content }) => content).filter((text) => text !== "");
    const scores = toxicity && texts.length > 0 ? await toxicity(texts) : null;
    for (const [i, text] of texts.entries()) {
      const score = scores?.[i] ?? 0;
      if (score >= toxic_alone) return ["toxic", `classifier ${share(score)}`];
      const word = toxic_words ? toxicWord(text) : null;
      if (word !== null && (!scores || score >= toxic_with_word))
        return ["toxic", `${JSON.stringify(word)}${scores ? `, classifier ${share(score)}` : ""}`];
    }
    return null;
  }

  #answers({ messages }: ConversationRecord): Verdict {
    if (!this.settings.refusals) return null;
    for (const [i, { role, content }] of messages.entries()) {
      if (role !== "assistant") continue;
      if (isRefusal(content)) return ["refusal_or_echo", "a refusal in the usual words"];
      if (isEcho(messages[i - 1]?.content ?? "", content))
        return ["refusal_or_echo", "repeats what was asked"];
    }
    return null;
  }
}
