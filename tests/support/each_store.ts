import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, test } from "vitest";
import { noPostgres, type Postgres, startPostgres } from "./databases.ts";

export type StoreKind = "sqlite" | "postgres";

/** A folder, and Postgres where there is one, for the tests of a file that hold for both kinds of stores. */
export function eachStore(prefix: string) {
  const folder = mkdtempSync(path.join(tmpdir(), prefix));
  let postgres: Postgres | null = null;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(async () => {
    await postgres?.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const isThere = (kind: StoreKind) => kind === "sqlite" || postgres !== null;
  return {
    folder,
    kinds: ["sqlite", "postgres"] as const,
    isThere,
    addressOf: (kind: StoreKind, name: string) =>
      kind === "sqlite" ? `sqlite:${folder}/${name}/kiln.db` : postgres!.url(name),
    /** `it` of one kind, skipped where that is not there. */
    itOn:
      (kind: StoreKind) =>
      (name: string, body: () => Promise<void>, timeout = 60_000) =>
        test(name, { timeout }, async (context) => {
          if (!isThere(kind)) return context.skip(noPostgres!);
          await body();
        }),
  };
}
