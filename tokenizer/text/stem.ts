/** Stems of irregular words, which the rules get wrong. */
const irregular: Record<string, string> = {
  skies: "sky",
  sky: "sky",
  dying: "die",
  lying: "lie",
  tying: "tie",
  news: "news",
  innings: "inning",
  inning: "inning",
  outings: "outing",
  outing: "outing",
  cannings: "canning",
  canning: "canning",
  howe: "howe",
  proceed: "proceed",
  exceed: "exceed",
  succeed: "succeed",
};

/** A suffix, its replacement, and an optional condition on the rest of the word. */
type Rule = readonly [suffix: string, replacement: string, condition?: (stem: string) => boolean];

/** Which characters are consonants. A y is one unless it follows a consonant. */
function consonants(word: string): boolean[] {
  const flags: boolean[] = [];
  for (const [i, char] of [...word].entries())
    flags.push(char === "y" ? i === 0 || !flags[i - 1] : !"aeiou".includes(char));
  return flags;
}

/** Porter's measure m: the number of times a consonant follows a vowel. */
function measure(stem: string): number {
  const flags = consonants(stem);
  return flags.filter((isConsonant, i) => i > 0 && isConsonant && !flags[i - 1]).length;
}

const positive = (stem: string) => measure(stem) > 0;
const aboveOne = (stem: string) => measure(stem) > 1;

function endsInDoubleConsonant(word: string): boolean {
  return word.length >= 2 && word.at(-1) === word.at(-2) && consonants(word).at(-1) === true;
}

/** Whether a word ends with consonant, vowel, consonant (not w, x or y). NLTK adds words of one vowel and one consonant. */
function endsCvc(word: string): boolean {
  const flags = consonants(word);
  if (word.length === 2) return !flags[0] && flags[1];
  const [first, second, third] = flags.slice(-3);
  return word.length > 2 && first && !second && third && !/[wxy]$/.test(word);
}

/** Applies the first rule whose suffix matches. If its condition fails, no other rule is tried. */
function applyFirst(word: string, rules: readonly Rule[]): string {
  const rule = rules.find(([suffix]) => word.endsWith(suffix));
  if (!rule) return word;
  const [suffix, replacement, condition] = rule;
  const stem = word.slice(0, word.length - suffix.length);
  return condition === undefined || condition(stem) ? stem + replacement : word;
}

/** Removes plural endings. */
function step1a(word: string): string {
  if (word.length === 4 && word.endsWith("ies")) return word.slice(0, -1);
  return applyFirst(word, [
    ["sses", "ss"],
    ["ies", "i"],
    ["ss", "ss"],
    ["s", ""],
  ]);
}

/** Removes -eed, -ed and -ing, and restores an e that they replaced. */
function step1b(word: string): string {
  if (word.endsWith("ied")) return word.slice(0, word.length === 4 ? -1 : -2);
  if (word.endsWith("eed")) return positive(word.slice(0, -3)) ? word.slice(0, -1) : word;
  const suffix = ["ed", "ing"].find(
    (end) => word.endsWith(end) && consonants(word.slice(0, -end.length)).includes(false),
  );
  if (suffix === undefined) return word;
  const stem = word.slice(0, -suffix.length);
  if (/(at|bl|iz)$/.test(stem)) return `${stem}e`;
  if (endsInDoubleConsonant(stem)) return /[lsz]$/.test(stem) ? stem : stem.slice(0, -1);
  return measure(stem) === 1 && endsCvc(stem) ? `${stem}e` : stem;
}

function step1c(word: string): string {
  return applyFirst(word, [["y", "i", (stem) => stem.length > 1 && consonants(stem).at(-1) === true]]);
}

const step2Rules: readonly Rule[] = [
  ["ational", "ate", positive],
  ["tional", "tion", positive],
  ["enci", "ence", positive],
  ["anci", "ance", positive],
  ["izer", "ize", positive],
  ["bli", "ble", positive],
  ["alli", "al", positive],
  ["entli", "ent", positive],
  ["eli", "e", positive],
  ["ousli", "ous", positive],
  ["ization", "ize", positive],
  ["ation", "ate", positive],
  ["ator", "ate", positive],
  ["alism", "al", positive],
  ["iveness", "ive", positive],
  ["fulness", "ful", positive],
  ["ousness", "ous", positive],
  ["aliti", "al", positive],
  ["iviti", "ive", positive],
  ["biliti", "ble", positive],
  ["fulli", "ful", positive],
  // NLTK counts the l as part of the stem, so that "geologi" and "theologi" are treated alike.
  ["logi", "log", (stem) => positive(`${stem}l`)],
];

function step2(word: string): string {
  const adjective = word.endsWith("alli") && positive(word.slice(0, -4));
  return applyFirst(adjective ? word.slice(0, -2) : word, step2Rules);
}

const step3Rules: readonly Rule[] = [
  ["icate", "ic", positive],
  ["ative", "", positive],
  ["alize", "al", positive],
  ["iciti", "ic", positive],
  ["ical", "ic", positive],
  ["ful", "", positive],
  ["ness", "", positive],
];

const step4Rules: readonly Rule[] = [
  ...["al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"].map(
    (suffix): Rule => [suffix, "", aboveOne],
  ),
  ["ion", "", (stem) => aboveOne(stem) && /[st]$/.test(stem)],
  ...["ou", "ism", "ate", "iti", "ous", "ive", "ize"].map((suffix): Rule => [suffix, "", aboveOne]),
];

/** Removes a final e, and one l of a final ll. */
function step5(word: string): string {
  const dropsE = (stem: string) => aboveOne(stem) || (measure(stem) === 1 && !endsCvc(stem));
  const shorter = applyFirst(word, [["e", "", dropsE]]);
  return applyFirst(shorter, [["ll", "l", (stem) => aboveOne(`${stem}l`)]]);
}

/**
 * The stem of an English word by Porter's algorithm (1980) with the extensions of NLTK's `PorterStemmer` in its default
 * mode, which ROUGE is defined with. The word is lowercased. Words of one or two letters are not changed.
 */
export function stem(word: string): string {
  const lower = word.toLowerCase();
  if (Object.hasOwn(irregular, lower)) return irregular[lower];
  if (lower.length <= 2) return lower;
  const step3 = applyFirst(step2(step1c(step1b(step1a(lower)))), step3Rules);
  return step5(applyFirst(step3, step4Rules));
}
