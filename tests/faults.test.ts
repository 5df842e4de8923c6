import { readdirSync, readFileSync } from "node:fs";
import { expect, it } from "vitest";

it("each fault of the design's table, F1 to F36, has a test of its number", () => {
  const folder = new URL("./", import.meta.url);
  const numbers = readdirSync(folder)
    .filter((name) => name.endsWith(".test.ts"))
    .flatMap((name) => {
      const names = readFileSync(new URL(name, folder), "utf8").matchAll(/["`]((?:[FW]\d+ )*[FW]\d+): /g);
      return [...names].flatMap(([, all]) => all.split(" "));
    })
    .filter((name) => name.startsWith("F"))
    .map((name) => Number(name.slice(1)));
  const wanted = Array.from({ length: 36 }, (_, i) => i + 1);
  expect(wanted.filter((number) => !numbers.includes(number))).toEqual([]);
});
