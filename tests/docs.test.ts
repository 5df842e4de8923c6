import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

/** Documents of today; the log speaks of files as they were. */
const pages = [
  "README.md",
  "bench/README.md",
  ...readdirSync("docs").map((name) => join("docs", name)),
].filter((path) => path.endsWith(".md") && !/^docs.log/.test(path));
/** Files that the pages on adding something tell to make. */
const made = ["models/x.ts", "models/x_config.ts", "serve/http/api/count.ts", "tests/serve_count.test.ts"];
/** Files and folders as documents name them, from the root of the repository. */
const named =
  /(?<![\w./-])(?:core|kernels|nn|models|tokenizer|train|serve|bench|tests|bin|docs)\/[\w./-]*\w/g;

it.each(pages)("%s names files that exist", (page) => {
  const paths = readFileSync(page, "utf8").match(named) ?? [];
  expect(paths.filter((path) => !existsSync(path) && !made.includes(path))).toEqual([]);
});

it("the house can be read in a day", () => {
  const named = readFileSync("docs/reading.md", "utf8").match(/(?<=`)[\w./]+\.(ts|wgsl)(?=`)/g)!;
  const paths = [...new Set(named)];
  const lines = paths.map((path) => readFileSync(path, "utf8").split("\n").length);
  expect(paths.length).toBeLessThanOrEqual(50);
  expect(lines.reduce((a, b) => a + b, 0)).toBeLessThan(10_000);
});

it("docs/state.md has every item once, in order, and names tests that exist", () => {
  // Its commands are not run here, which would take half an hour: tests/cli.test.ts checks their flags, and those of their kind are
  // run from the other pages (readme, guides, application_guide, conversation_docs, providers_docs).
  const page = readFileSync("docs/state.md", "utf8");
  const items = [...page.matchAll(/^\| ([A-O]\d+) \| /gm)].map(([, item]) => item!);
  const counts = {
    A: 3,
    B: 6,
    C: 6,
    D: 5,
    E: 4,
    F: 3,
    G: 3,
    H: 3,
    I: 2,
    J: 3,
    K: 2,
    L: 12,
    M: 20,
    N: 17,
    O: 12,
  };
  expect(items).toEqual(
    Object.entries(counts).flatMap(([letter, count]) =>
      Array.from({ length: count }, (_, i) => `${letter}${i + 1}`),
    ),
  );
  const tests = [
    ...[...page.matchAll(/`t ([\w/]+)`/g)].map(([, name]) => `tests/${name}.test.ts`),
    ...[...page.matchAll(/slow `([\w/]+)`/g)].map(([, name]) => `tests/${name}.slow.test.ts`),
  ];
  expect(tests.length).toBeGreaterThan(50);
  expect(tests.filter((path) => !existsSync(path))).toEqual([]);
  const cells = (row: string) => row.replaceAll("\\|", "").split("|").length;
  const rows = page.split("\n").filter((line) => line.startsWith("|"));
  const uneven = rows.filter(
    (row, i) =>
      rows[i - 1] !== undefined &&
      page.includes(`${rows[i - 1]}\n${row}`) &&
      cells(row) !== cells(rows[i - 1]!),
  );
  expect(uneven).toEqual([]);
});
