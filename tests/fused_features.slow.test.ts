import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

it("features of text, picture, sound and table together beat those of each by itself", () => {
  const root = fileURLToPath(new URL("..", import.meta.url));
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ["--import", import.meta.resolve("tsx"), "docs/examples/fused_features.ts"],
    {
      ...{ cwd: root, encoding: "utf8", timeout: 110_000 },
      env: { ...process.env, TSX_TSCONFIG_PATH: `${root}/tsconfig.json` },
    },
  );
  const shares = Object.fromEntries(
    stdout
      .trim()
      .split("\n")
      .map((line) => [line.split(/ alone|:/)[0], Number(line.split(": ")[1])]),
  );
  expect(status, stderr).toBe(0);
  expect(Object.keys(shares)).toEqual(["text", "picture", "sound", "table", "all four"]);
  const { "all four": fused, ...single } = shares;
  // One question of four is answered by each: one kind in 8 is told, by chance one in 16.
  for (const share of Object.values(single)) {
    expect(share).toBeGreaterThan(0.06);
    expect(share).toBeLessThan(0.3);
  }
  expect(fused).toBeGreaterThan(0.9);
});
