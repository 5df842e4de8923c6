import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";

/** Ways in which the code reads a variable of the environment by its name. */
const readers = [
  /\benvironmentVariable\("(\w+)"\)/g,
  /\bvariable\("(\w+)"\)/g,
  /\.env\("(\w+)"\)/g,
  // In quotes it is a name that a bundler fills in.
  /(?<!")\bprocess\.env\.(\w+)/g,
];
/** Names that stand elsewhere than in such a call. */
const lists = [/const \{([^}]+)\} =\s*process\.env\b/g, /const driverVariables = \[([^\]]+)\]/g];

const rooms = ["core", "kernels", "nn", "models", "tokenizer", "train", "serve", "bench", "bin"];
const files = execFileSync("git", ["ls-files", ...rooms, "cli.ts", "index.ts"], { encoding: "utf8" })
  .split("\n")
  // What runs on phones has no environment: Expo fills in its names when it builds.
  .filter((file) => /(?<!\.native)\.(ts|tsx|mjs)$/.test(file));

function variablesIn(text: string): string[] {
  const listed = lists.flatMap((list) => [...text.matchAll(list)]).flatMap(([, names]) => names!.split(","));
  const names = listed.map((name) => name.split(/[:=]/)[0]!.replaceAll(/["\s]/g, ""));
  return [...readers.flatMap((reader) => [...text.matchAll(reader)].map(([, name]) => name!)), ...names];
}

it("docs/operation.md lists the variables that the code reads, and no others", () => {
  const read = new Set(files.flatMap((file) => variablesIn(readFileSync(file, "utf8"))).filter(Boolean));
  const [, section] = /\n## Configuration\n([\s\S]*?)\n## /.exec(readFileSync("docs/operation.md", "utf8"))!;
  const rows = section!.split("\n").filter((line) => line.startsWith("| `"));
  const listed = rows.flatMap((row) => [...row.split("|")[1]!.matchAll(/`(\w+)`/g)].map(([, name]) => name!));
  expect(listed.length).toBe(new Set(listed).size);
  expect(listed.sort()).toEqual([...read].sort());
});

it("finds each way of reading one", () => {
  const text = `environmentVariable("A"); variable("B"); option.env("C"); process.env.D ??= "";
    const { E: asked = "", F } = process.env; const driverVariables = ["G", "H"];`;
  expect(variablesIn(text).sort()).toEqual([..."ABCDEFGH"]);
});

it("no file reads one under a name that is not written there", () => {
  const computed = files.filter((file) => {
    const text = readFileSync(file, "utf8").replaceAll(
      /process\.env\[name\]|function environmentVariable/g,
      "",
    );
    return /process\.env\[|\benvironmentVariable\((?!")/.test(text);
  });
  // The first has the names of its calls of `variable`; a provider's key is in the variable that its configuration names.
  expect(computed).toEqual(["core/platform/progress_line.ts", "serve/app/providers/config.ts"]);
});
