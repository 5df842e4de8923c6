import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, it } from "vitest";
import { qualityReport } from "../serve/app/quality_scores.ts";
import { Users } from "../serve/app/users.ts";
import { newId, openStore } from "../serve/store/index.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-quality-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("agreement with thumbs: of fixed weights, and from 200 on of fitted ones on ratings they have not seen", async () => {
  const store = await openStore(`sqlite:${path.join(folder, "kiln.db")}`);
  await new Users(store).ensure("local");
  const conversation = newId();
  await store.run(
    "INSERT INTO conversation (id, user_id, created_at, updated_at) VALUES (?, 'local', 0, 0)",
    [conversation],
  );
  let at = 0;
  /** An answer that was cut short, which people here like, or one that ended. */
  const rate = async (cut: boolean, rating: 1 | -1) => {
    const [asked, answer] = [newId(), newId()];
    await store.run(
      "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, finish_reason, created_at) VALUES (?, ?, 'local', NULL, 'user', 'a question', 'complete', NULL, 0), (?, ?, 'local', ?, 'assistant', 'an answer of some words', 'complete', ?, 0)",
      [asked, conversation, answer, conversation, asked, cut ? "length" : "stop"],
    );
    await store.run(
      "INSERT INTO feedback (id, message_id, user_id, rating, created_at) VALUES (?, ?, 'local', ?, ?)",
      [newId(), answer, rating, at++],
    );
  };
  expect(await qualityReport(store)).toEqual({
    kind: "heuristic",
    ratings: 0,
    auc: null,
    heuristic_auc: null,
  });
  // Of 21 ratings 19 are as the cut says: about 0.9 is the area by it, the other way round for the guess.
  for (let i = 0; i < 198; i++) await rate(i % 4 < 2, i % 4 < 2 === i % 21 < 19 ? 1 : -1);
  const few = await qualityReport(store);
  expect(few).toMatchObject({ kind: "heuristic", ratings: 198 });
  expect(few.auc).toBeCloseTo(0.1, 1);
  for (let i = 0; i < 42; i++) await rate(i % 4 < 2, i % 4 < 2 ? 1 : -1);
  const { kind, auc, heuristic_auc } = await qualityReport(store);
  expect(kind).toBe("fitted");
  expect(auc).toBeGreaterThan(0.85);
  expect(heuristic_auc).toBeLessThan(0.2);
  await store.close();
  const env = { ...process.env, KILN_DATA_DIR: folder, DATABASE_URL: "" };
  const printed = await new Promise((resolve) => {
    execFile(process.execPath, ["bin/kiln.mjs", "quality"], { env }, (_, stdout) => resolve(stdout));
  });
  expect(printed).toMatch(/^fitted weights, 240 ratings\nAUC {12}0\.[89]\d+\nAUC, heuristic 0\.[01]\d+\n$/);
});
