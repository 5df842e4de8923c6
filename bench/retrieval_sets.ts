import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/** A public set of questions with what answers them. */
export interface RetrievalSet {
  readonly texts: readonly string[];
  readonly queries: readonly { text: string; gains: ReadonlyMap<number, number> }[];
}

/** Cranfield: 1,400 abstracts with titles, 225 queries; gain 2^(5 - code) - 1 for codes 1 to 4, 0 for 5 and -1. */
export function cranfield(folder: string): RetrievalSet & { titles: readonly string[] } {
  const read = (name: string) => {
    const bytes = readFileSync(`${folder}/${name}`);
    return (name.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("latin1").replaceAll("\r\n", "\n");
  };
  const parts = read("cran.all.1400.gz")
    .split(/^\.I /m)
    .slice(1)
    .map((entry) => new Map(entry.split(/^\.(?=[A-Z]\n)/m).map((part) => [part[0], part.slice(2)])));
  const asked = read("cran.qry").split(/^\.I /m).slice(1);
  const gains = asked.map(() => new Map<number, number>());
  for (const line of read("cranqrel").split("\n")) {
    const [query, document, code] = line.trim().split(/\s+/).map(Number);
    if (code >= 1 && code <= 4) gains[query - 1].set(document - 1, 2 ** (5 - code) - 1);
  }
  return {
    texts: parts.map((part) => `${part.get("T")}\n${part.get("W")}`),
    titles: parts.map((part) => part.get("T") ?? ""),
    queries: asked.map((entry, i) => ({ text: entry.split(/^\.W\n/m)[1], gains: gains[i] })),
  };
}

/** XQuAD in English: 240 paragraphs, 1,190 questions, each with the paragraph that answers it; and the answers. */
export function xquad(file: string): RetrievalSet & { answers: readonly string[] } {
  interface Article {
    paragraphs: { context: string; qas: { question: string; answers: { text: string }[] }[] }[];
  }
  const { data } = JSON.parse(gunzipSync(readFileSync(file)).toString()) as { data: Article[] };
  const paragraphs = data.flatMap((article) => article.paragraphs);
  const asked = paragraphs.flatMap(({ qas }, i) => qas.map((one) => ({ ...one, paragraph: i })));
  return {
    texts: paragraphs.map(({ context }) => context),
    queries: asked.map(({ question, paragraph }) => ({ text: question, gains: new Map([[paragraph, 1]]) })),
    answers: asked.map(({ answers }) => answers[0].text),
  };
}

/** Mean nDCG of the first `k` over the queries that anything answers (Järvelin and Kekäläinen 2002). */
export function ndcg(set: RetrievalSet, search: (text: string) => ArrayLike<number>, k: number): number {
  const scores = set.queries
    .filter(({ gains }) => gains.size > 0)
    .map(({ text, gains }) => {
      const discounted = (values: readonly number[]) =>
        values.slice(0, k).reduce((sum, gain, i) => sum + gain / Math.log2(i + 2), 0);
      const found = Array.from(search(text), (chunk) => gains.get(chunk) ?? 0);
      return discounted(found) / discounted([...gains.values()].sort((a, b) => b - a));
    });
  return scores.reduce((sum, score) => sum + score, 0) / scores.length;
}

/** The share of queries with something that answers them among the first `k`. */
export function recall(set: RetrievalSet, search: (text: string) => ArrayLike<number>, k: number): number {
  const hit = set.queries.filter(({ text, gains }) =>
    Array.from(search(text))
      .slice(0, k)
      .some((c) => gains.has(c)),
  );
  return hit.length / set.queries.length;
}
