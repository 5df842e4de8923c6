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
