import seedrandom from "seedrandom";
import type { ChatMessage, Conversation } from "../../../tokenizer/index.ts";
import plotFile from "./plots.json" with { type: "json" };
import wordFile from "./words.json" with { type: "json" };

/** The alternative sentences for one moment of a story. */
export type Beat = readonly string[];

/** The skeleton of a story: paragraphs of beats. */
export interface Plot {
  name: string;
  paragraphs: readonly (readonly Beat[])[];
}

/** What fills the slots of a plot. Lists are short on purpose, so that a small model meets each word often. */
export const words = wordFile;

const shared: Record<string, Beat> = plotFile.shared;

/** All plots of the built-in corpus. A beat that is a name in the file refers to one of its `shared` beats. */
export const plots: readonly Plot[] = plotFile.plots.map(({ name, paragraphs }) => ({
  name,
  paragraphs: paragraphs.map((beats) =>
    beats.map((beat) => (typeof beat === "string" ? shared[beat] : beat)),
  ),
}));

/** Changes when the same seed gives other stories: part of the key of cached token files. */
export const CORPUS_VERSION = 1;

/** A uniform number in [0, 1). */
type Random = () => number;
/** The values of the slots of one story. */
type Scene = Record<string, string>;

const pronouns = {
  she: { he: "she", him: "her", his: "her", self: "herself" },
  he: { he: "he", him: "him", his: "his", self: "himself" },
};

/**
 * The built-in corpus: short stories for children in plain English, made by a seeded grammar of our own. Each
 * has a hero whose name, kind and pronouns stay the same, a plot with a beginning, a middle and an end, and is about
 * 80 to 150 words long. Story i depends on (seed, i) alone, so a longer corpus begins with the shorter one.
 */
export function* storyCorpus(options: { seed: number | string; stories: number }): Generator<string> {
  for (let i = 0; i < options.stories; i++) yield story(options.seed, i);
}

/** Story number `index` of the corpus with this seed. */
export function story(seed: number | string, index: number): string {
  const random = seedrandom.alea(`kiln stories ${CORPUS_VERSION}:${seed}:${index}`);
  return tell(pick(plots, random), makeScene(random), random);
}

/** What is asked of a story's three parts. */
const questions = [
  ["Tell me a story about {h.intro}.", "Do you know a story about {h.intro}?", "Who was {h.intro}?"],
  ["What happened then?", "Go on!", "And then?", "What happened to {h}?"],
  ["How does the story end?", "And how did it end?", "Did it end well for {h}?"],
];

/**
 * Conversation number `index` with this seed: someone asks for a story and hears it part by part, in one to three turns. Its
 * stories are none of `storyCorpus`.
 */
export function storyChat(seed: number | string, index: number): Conversation {
  const random = seedrandom.alea(`kiln story chats ${CORPUS_VERSION}:${seed}:${index}`);
  const scene = makeScene(random);
  const parts = tell(pick(plots, random), scene, random).split("\n\n");
  const turns = 1 + Math.floor(random() * parts.length);
  return {
    messages: questions.slice(0, turns).flatMap((asked, i): ChatMessage[] => [
      { role: "user", content: fill(pick(asked, random), scene, random) },
      { role: "assistant", content: parts[i] },
    ]),
  };
}

/** One telling of a plot: picks a sentence for each beat and fills in the scene. */
function tell(plot: Plot, scene: Scene, random: Random): string {
  return plot.paragraphs
    .map((beats) => beats.map((beat) => fill(pick(beat, random), scene, random)).join(" "))
    .join("\n\n");
}

/**
 * Fills a sentence: `[a|b]` is a choice, `{slot}` a value, `{^slot}` the value with a capital, `{a slot}` the value
 * after "a" or "an". Values may hold slots themselves. An unknown slot is a mistake in a plot and throws.
 */
export function fill(sentence: string, scene: Scene, random: Random): string {
  const chosen = sentence.replace(/\[([^\]]*)\]/g, (_, choices: string) => pick(choices.split("|"), random));
  const filled = chosen.replace(/\{(\^?)(a )?([^}]+)\}/g, (slot, capital: string, article, key: string) => {
    const value = scene[key];
    if (value === undefined) throw new Error(`story grammar: unknown slot ${slot} in "${sentence}"`);
    const inner = value.includes("{") ? fill(value, scene, random) : value;
    const whole = article ? withArticle(inner) : inner;
    return capital ? whole[0].toUpperCase() + whole.slice(1) : whole;
  });
  return filled;
}

/** Draws everything that a story may need, so that each thing keeps its name through the whole story. */
export function makeScene(random: Random): Scene {
  const of = <T>(list: readonly T[]) => pick(list, random);
  // The order of the draws decides the stories: another one needs another CORPUS_VERSION.
  const grownUp = of(words.grownUps);
  const place = of(words.places);
  const [spot1, spot2, spot3] = pickSome(words.spots, 3, random);
  const [color, toyColor] = pickSome(words.colors, 2, random);
  const lists = [words.snacks, words.troubles, words.skills, words.builds, words.finds];
  const things = lists.map((list) => of<Scene>(list));
  const scene: Scene = {
    ...characters(random),
    ...person("g", grownUp.name, grownUp.pronoun === "she" ? pronouns.she : pronouns.he),
    ...place,
    ...Object.assign({}, ...things),
    spot1,
    spot2,
    spot3,
    color,
    toy: `${toyColor} ${of(words.toys)}`,
    colorful: toyColor,
  };
  for (const [slot, list] of Object.entries(words.slots)) scene[slot] = of(list);
  return scene;
}

/** The hero `h` and the friend `f`: two children, or two animals of different kinds. */
function characters(random: Random): Scene {
  const isAnimal = random() < 0.45;
  const kinds = pickSome(words.animals, 2, random);
  const animalNames = pickSome(words.animalNames, 2, random);
  const scene: Scene = {};
  const taken = new Set<string>();
  ["h", "f"].forEach((key, i) => {
    const isShe = random() < 0.5;
    const names = (isShe ? words.girlNames : words.boyNames).filter((name) => !taken.has(name));
    const name = isAnimal ? animalNames[i] : pick(names, random);
    taken.add(name);
    const kind = isAnimal ? kinds[i] : isShe ? "girl" : "boy";
    const intro = `${withArticle(pick(isAnimal ? words.animalSizes : words.childSizes, random))} ${kind} ${pick(["named", "called"], random)} ${name}`;
    Object.assign(scene, person(key, name, pronouns[isShe ? "she" : "he"]), { [`${key}.intro`]: intro });
  });
  return scene;
}

function person(key: string, name: string, pronoun: (typeof pronouns)["she"]): Scene {
  const entries = Object.entries(pronoun).map(([role, word]) => [`${key}.${role}`, word] as const);
  return { [key]: name, ...Object.fromEntries(entries) };
}

function withArticle(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
}

function pick<T>(list: readonly T[], random: Random): T {
  return list[Math.floor(random() * list.length)];
}

/** `count` different members of `list`. */
function pickSome<T>(list: readonly T[], count: number, random: Random): T[] {
  const rest = [...list];
  return Array.from({ length: count }, () => rest.splice(Math.floor(random() * rest.length), 1)[0]);
}
