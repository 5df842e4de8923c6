import { existsSync } from "node:fs";
import { KilnError } from "../core/errors.ts";
import { openOnce } from "../kernels/index.ts";
import { Encoder } from "../models/encoder.ts";
import { fromPretrained } from "../models/formats/hf_directory.ts";
import { TextReader } from "../models/text_reader.ts";
import { sentenceSpans } from "../serve/app/retrieval/chunk.ts";
import { type Encode, PassageIndex, type Ranker, selfTest } from "../serve/app/retrieval/index.ts";
import { cranfield, ndcg, type RetrievalSet, recall, xquad } from "./retrieval_sets.ts";

/** A way to search, on both public sets and in their self-tests. */
export interface RagRow {
  ranker: string;
  cranfield_ndcg10: number;
  xquad_recall1: number;
  xquad_recall5: number;
  /** Mean reciprocal ranks of the self-tests; null of what is none of its rankers. */
  cranfield_mrr: number | null;
  xquad_mrr: number | null;
}

const passagesOf = ({ texts }: RetrievalSet) =>
  texts.map((text, i) => ({ text, document: String(i), title: "" }));

function setsIn(folder: string) {
  if (!existsSync(`${folder}/cranfield`))
    throw new KilnError(`${folder} has no cranfield: name the folder of cranfield/ and xquad.en.json.gz`);
  return { cranfield: cranfield(`${folder}/cranfield`), xquad: xquad(`${folder}/xquad.en.json.gz`) };
}

/** A model's vectors: means of tokens, of length 1; longer texts are cut. */
async function encoderIn(folder: string): Promise<Encode> {
  await openOnce();
  const { model, tokenizer } = await fromPretrained(folder);
  if (!(model instanceof Encoder))
    throw new KilnError(`${folder} is no encoder: train one with kiln train embed`);
  const reader = new TextReader(model, tokenizer, () => {});
  return async (texts) => reader.vectors(await reader.encode([...texts]), "mean", true);
}

/** Each ranker on Cranfield and XQuAD; with the folder of a `model` that makes vectors, these alone and beside the words too. */
export async function ragRows(folder: string, model?: string): Promise<RagRow[]> {
  const sets = setsIn(folder);
  const encode = model === undefined ? null : await encoderIn(model);
  const rankers: Ranker[] = ["bm25", "rm3", "hybrid", ...(encode ? (["encoder"] as const) : [])];
  const indexes = {
    cranfield: new PassageIndex(passagesOf(sets.cranfield), encode),
    xquad: new PassageIndex(passagesOf(sets.xquad), encode),
  };
  const tests = {
    cranfield: await selfTest(passagesOf(sets.cranfield), 200, encode),
    xquad: await selfTest(passagesOf(sets.xquad), 200, encode),
  };
  const rows: RagRow[] = [];
  const vectors = new Map<string, Float32Array>();
  const measure = (ranker: string, rank: (set: keyof typeof sets, query: string) => ArrayLike<number>) => ({
    ranker,
    cranfield_ndcg10: ndcg(sets.cranfield, (query) => rank("cranfield", query), 10),
    xquad_recall1: recall(sets.xquad, (query) => rank("xquad", query), 1),
    xquad_recall5: recall(sets.xquad, (query) => rank("xquad", query), 5),
    cranfield_mrr: tests.cranfield.mrr[ranker as Ranker] ?? null,
    xquad_mrr: tests.xquad.mrr[ranker as Ranker] ?? null,
  });
  for (const ranker of rankers) {
    for (const index of Object.values(indexes)) await index.prepare(ranker);
    if (ranker === "encoder") {
      const queries = Object.values(sets).flatMap((set) => set.queries.map(({ text }) => text));
      for (const [i, vector] of (await encode!(queries)).entries()) vectors.set(queries[i], vector);
      rows.push(measure("encoder alone", (set, query) => indexes[set].near(vectors.get(query)!, 10).chunks));
    }
    rows.push(
      measure(ranker, (set, query) => indexes[set].rank(query, 10, ranker, vectors.get(query)).chunks),
    );
  }
  return rows;
}

/** What an encoder can learn of the sets' own texts, without a question of theirs: of each the title or first sentence, and the rest. */
export function ragPairs(folder: string): { query: string; passage: string }[] {
  const sets = setsIn(folder);
  const oneLine = (text: string) => text.replace(/\s+/g, " ").trim();
  const firsts = [
    ...sets.cranfield.titles,
    ...sets.xquad.texts.map((text) => text.slice(...(sentenceSpans(text)[0] ?? [0, 0]))),
  ].map(oneLine);
  return [...sets.cranfield.texts, ...sets.xquad.texts].flatMap((text, i) => {
    const query = firsts[i];
    let passage = oneLine(text);
    // Cranfield's abstracts begin with their titles again.
    while (query !== "" && passage.startsWith(query)) passage = passage.slice(query.length).trim();
    return query === "" || passage === "" ? [] : [{ query, passage }];
  });
}

/** The rows as a table in Markdown. */
export function ragTable(rows: readonly RagRow[]): string {
  const head = ["ranker", "Cranfield nDCG@10", "XQuAD recall@1", "recall@5", "self-test: Cranfield", "XQuAD"];
  const cells = rows.map(({ ranker, ...numbers }) => [
    ranker,
    ...Object.values(numbers).map((value) => value?.toFixed(3) ?? ""),
  ]);
  return [head, head.map(() => "---"), ...cells].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
