import { createRequire } from "node:module";
import { KilnError } from "../../../core/errors.ts";

/** Probabilities that texts are toxic. */
export type ToxicityModel = (texts: readonly string[]) => Promise<number[]>;

/** English words that hold one of the list's and are harmless. */
const harmless = [
  "cockpit",
  "cockatoo",
  "cocktail",
  "peacock",
  "hancock",
  "shiitake",
  "scunthorpe",
  "dickens",
  "moby dick",
];

let matcher: ((text: string) => string | null) | undefined;

/** The first obscene English word of a text, also one in disguise ("sh1t"), or null: the list of obscenity. */
export function toxicWord(text: string): string | null {
  matcher ??= loadMatcher();
  return matcher(text);
}

function loadMatcher(): (text: string) => string | null {
  const obscenity = createRequire(import.meta.url)("obscenity") as typeof import("obscenity");
  const dataset = new obscenity.DataSet<{ originalWord: string }>().addAll(obscenity.englishDataset);
  for (const word of harmless)
    dataset.addPhrase((phrase) => phrase.setMetadata({ originalWord: word }).addWhitelistedTerm(word));
  const found = new obscenity.RegExpMatcher({
    ...dataset.build(),
    ...obscenity.englishRecommendedTransformers,
  });
  return (text) => {
    const [first] = found.getAllMatches(text, true);
    return first ? text.slice(first.startIndex, first.endIndex + 1) : null;
  };
}

/** A model of `kiln train classify`: 1 less the probabilities of the harmless labels. Opens the device. */
export async function toxicityModel(path: string, harmlessLabels: readonly string[]): Promise<ToxicityModel> {
  const [{ pipeline }, { openOnce }] = await Promise.all([
    import("../../../models/pipeline.ts"),
    import("../../../kernels/index.ts"),
  ]);
  await openOnce();
  const classify = await pipeline("text-classification", path, { onTruncated: () => {} });
  const known = async (texts: readonly string[]) =>
    (await classify([...texts], { top_k: null })) as { label: string; score: number }[][];
  const [labels] = await known(["hello"]);
  if (!labels.some(({ label }) => harmlessLabels.includes(label)))
    throw new KilnError(
      `${path} has the labels ${labels.map(({ label }) => label).join(", ")}: name those that are not toxic in quality.harmless_labels`,
    );
  return async (texts) =>
    (await known(texts)).map((scores) =>
      scores.reduce((sum, { label, score }) => (harmlessLabels.includes(label) ? sum : sum + score), 0),
    );
}
