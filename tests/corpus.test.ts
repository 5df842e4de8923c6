import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import {
  fill,
  makeScene,
  plots,
  story,
  storyChat,
  storyCorpus,
  words,
} from "../train/data/stories/grammar.ts";

const stories = [...storyCorpus({ seed: 7, stories: 4000 })];
const wordCount = (text: string) => text.split(/\s+/).length;

describe("the built-in stories", () => {
  test("are all different, and the same for the same seed", () => {
    expect(new Set(stories).size).toBe(stories.length);
    expect([...storyCorpus({ seed: 7, stories: 20 })]).toEqual(stories.slice(0, 20));
    expect(story(7, 1234)).toBe(stories[1234]);
    expect([...storyCorpus({ seed: 8, stories: 20 })]).not.toEqual(stories.slice(0, 20));
  });

  test("keep every byte, since cached token files and logged losses refer to them", () => {
    const digest = (seed: number | string) => {
      const hash = createHash("sha256");
      for (const text of storyCorpus({ seed, stories: 2000 })) hash.update(`${text}\n`);
      return hash.digest("hex");
    };
    expect(digest(0)).toBe("788b0992b0470d2757725bead8a74626709147c5399e8488ec470d9ef8cb9f8c");
    expect(digest("a")).toBe("f1d992e7fad34716f38ab501cee7e4832fab1bd81258989b5ce120ef47981130");
  });

  test("are short stories: a beginning, a middle and an end of 60 to 170 words", () => {
    for (const text of stories) {
      expect(text.split("\n\n")).toHaveLength(3);
      expect(wordCount(text)).toBeGreaterThanOrEqual(60);
      expect(wordCount(text)).toBeLessThanOrEqual(170);
    }
  });

  test("are well-formed English text", () => {
    for (const text of stories) {
      expect(text).toMatch(/^[A-Z]/);
      expect(text).toMatch(/[.!?]["]?$/);
      expect(text).not.toMatch(/[{}[\]|^]|undefined| {2}| [.,!?]/);
      expect(text).not.toMatch(/\b[Aa] [aeiou]/);
      expect(text).not.toMatch(/\b[Aa]n [^aeiou\W]/);
      expect(text).not.toMatch(/\b(\w+) \1\b/i);
      for (const paragraph of text.split("\n\n")) {
        expect(paragraph.split('"').length % 2).toBe(1);
        // A sentence starts with a capital letter or a quotation mark.
        expect(paragraph).not.toMatch(/[a-z][.!?] [a-z]/);
      }
    }
  });

  test("each plot, beat and choice can be told, with every kind of hero", () => {
    for (const plot of plots) {
      for (const beat of plot.paragraphs.flat()) {
        expect(beat.length).toBeGreaterThanOrEqual(2);
        for (const sentence of beat) {
          for (const roll of [0, 0.3, 0.5, 0.999]) {
            const text = fill(
              sentence,
              makeScene(() => roll),
              () => roll,
            );
            expect(text).not.toMatch(/[{}[\]|]/);
          }
        }
      }
    }
    expect(plots.length).toBeGreaterThanOrEqual(8);
  });

  test("name two different characters and keep pronouns with their names", () => {
    for (let i = 0; i < 500; i++) {
      const rolls = [...Array(64).keys()].map((k) => ((i * 7919 + k * 104729) % 1000) / 1000);
      let at = 0;
      const scene = makeScene(() => rolls[at++ % rolls.length]);
      expect(scene.h).not.toBe(scene.f);
      for (const key of ["h", "f"]) {
        const name = scene[key];
        if (words.girlNames.includes(name)) expect(scene[`${key}.he`]).toBe("she");
        if (words.boyNames.includes(name)) expect(scene[`${key}.he`]).toBe("he");
        expect(scene[`${key}.intro`]).toContain(name);
      }
    }
  });

  test("an unknown slot in a plot is an error", () => {
    expect(() => fill("{nobody}", {}, Math.random)).toThrow(/unknown slot \{nobody\}/);
  });

  test("are told in conversations too: one to three turns, the same for the same seed, none of them twice", () => {
    const chats = Array.from({ length: 600 }, (_, i) => storyChat(3, i));
    expect(storyChat(3, 599)).toEqual(chats[599]);
    expect(storyChat(4, 599)).not.toEqual(chats[599]);
    expect(new Set(chats.map((chat) => JSON.stringify(chat))).size).toBe(600);
    expect(new Set(chats.map(({ messages }) => messages.length))).toEqual(new Set([2, 4, 6]));
    for (const { messages } of chats) {
      for (const [i, { role, content }] of messages.entries()) {
        expect(role).toBe(i % 2 === 0 ? "user" : "assistant");
        expect(content).toMatch(/^["A-Z][\s\S]*[.!?]"?$/);
        expect(content).not.toMatch(/[{}[\]|^]|undefined|\n/);
      }
    }
  });
});
