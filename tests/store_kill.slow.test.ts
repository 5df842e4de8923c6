import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, it } from "vitest";
import { killWriters } from "./support/store_kill.ts";

it("15 pairs of writers killed while they write have kept what they said", { timeout: 300_000 }, async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "kiln-killed-"));
  try {
    expect(await killWriters(`sqlite:${folder}/kiln.db`, 15)).toBeGreaterThan(100);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
