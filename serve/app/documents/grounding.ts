import type { AnswerSource, RunningAnswer, Turn } from "../chat/answers.ts";
import type { Citation } from "../protocol.ts";
import {
  checkAnswer,
  promptOf,
  quoted,
  type Source,
  searchQuery,
  sourcesWithin,
} from "../retrieval/index.ts";
import type { FoundPassage, Searches } from "./search.ts";

/** `auto`: where the documents answer; `on`: or say that they do not; `off`: never. */
export type Retrieve = "auto" | "on" | "off";

/** What an answer from documents is made of. */
export interface Grounding {
  /** The user's turn with its sources; the turn itself where `said` answers. */
  readonly turn: Turn;
  /** The user's own words. */
  readonly question: string;
  readonly sources: readonly { readonly n: number; readonly passage: FoundPassage }[];
  /** The answer itself, where no model writes it. */
  readonly said: string | null;
}

/** What is said where the documents have no answer. */
const NOT_FOUND = "Nothing in your documents about this. The nearest passages are below.";
const NOT_IN_NOTICE = "Nothing in this notice about that. Its passages are below.";
/** Passages that are looked at, shown beside a quote, and nearest ones. */
const MOST_SOURCES = 8;
const SHOWN = 3;
/** Of the context that system prompt and question leave. */
const SOURCES_SHARE = 0.4;
/** A model with fewer weights does not follow instructions: it is not asked, the passage is quoted. */
const LEAST_PARAMETERS = 50e6;
const QUOTE_CHARS = 500;

export interface Grounded {
  readonly userId: string;
  /** The branch up to the question. */
  readonly turns: readonly Turn[];
  readonly system: string | null;
  readonly model: string;
  readonly retrieve: Retrieve;
  /** The newest version of the user's index, where it is known. */
  readonly documents?: number;
  /** The notice that it is asked about, which is always looked up, and alone. */
  readonly notice?: string | null;
}

/** Searches a user's documents for the last turn; null: they have nothing to do with the answer. */
export async function ground(
  searches: Searches,
  source: AnswerSource,
  { userId, turns, system, model, retrieve, documents, notice = null }: Grounded,
): Promise<Grounding | null> {
  const turn = turns.at(-1);
  if ((retrieve === "off" && notice === null) || turn?.role !== "user") return null;
  const question = turn.content;
  const query = searchQuery(turns.flatMap(({ role, content }) => (role === "user" ? [content] : [])));
  const { passages, answered, index, numbers } = await searches.search(
    userId,
    query,
    MOST_SOURCES,
    documents,
    notice,
  );
  const numbered = (most: number) => passages.slice(0, most).map((passage, i) => ({ n: i + 1, passage }));
  const small = isSmall(source, model);
  // A model is given a notice whatever of it is asked: "Sum it up." shares no word with it.
  if (!answered && (notice === null || small))
    return retrieve === "on" || notice !== null
      ? { turn, question, sources: numbered(SHOWN), said: notice === null ? NOT_FOUND : NOT_IN_NOTICE }
      : null;
  if (small) {
    const spans = quoted(index, query, { passage: numbers[0], score: 0 });
    const quote = spans.map((span) => passages[0].text.slice(...span)).join(" ");
    return { turn, question, sources: numbered(SHOWN), said: `${quote} [1]` };
  }
  const before: Turn[] = system ? [{ role: "system", content: system }] : [];
  const left = source.contextLength(model) - (await source.count(model, [...before, turn]));
  const asSources = passages.map((passage, i): Source => {
    const { name, page, text } = passage;
    return { n: i + 1, passage: i, name, page: page ?? undefined, text };
  });
  // The model's own count decides; ours says where to begin.
  for (
    let fitting = sourcesWithin(asSources, left * SOURCES_SHARE);
    fitting.length > 0;
    fitting = fitting.slice(0, -1)
  ) {
    const asked: Turn = { ...turn, content: promptOf(fitting, question) };
    const added = (await source.count(model, [asked])) - (await source.count(model, [turn]));
    if (added <= left * SOURCES_SHARE)
      return {
        turn: asked,
        question,
        sources: fitting.map(({ n, passage }) => ({ n, passage: passages[passage] })),
        said: null,
      };
  }
  return null;
}

const isSmall = (source: AnswerSource, model: string): boolean =>
  (source.parameters?.(model) ?? Infinity) < LEAST_PARAMETERS;

/** How a client is told of a source. */
export const citationOf = ({ n, passage }: Grounding["sources"][number]): Citation => ({
  ...{
    n,
    document_id: passage.document_id,
    name: passage.name,
    page: passage.page,
    heading: passage.heading,
  },
  ordinal: passage.ordinal,
  quote: passage.text.slice(0, QUOTE_CHARS),
});

/** The sentences of an answer that cite nothing and share too little with any source. */
export function unsupportedBy(sources: Grounding["sources"], text: string): string[] {
  if (sources.length === 0 || text === NOT_FOUND || text === NOT_IN_NOTICE) return [];
  const held = sources.map(({ n, passage }, i): Source => ({ n, passage: i, ...passage, page: undefined }));
  return checkAnswer(text, held).unsupported.map((span) => text.slice(...span).trim());
}

/** A source of answers that says one thing. */
export const saying = (source: AnswerSource, text: string): AnswerSource => ({
  ...source,
  versionOf: (model) => source.versionOf(model),
  async start(_request, onText) {
    const usage = { prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0, estimated: false };
    const done: RunningAnswer["done"] = new Promise((resolve) => {
      setImmediate(() => {
        onText(text);
        resolve("stop");
      });
    });
    return { done, usage: () => usage, stop() {} };
  },
});
