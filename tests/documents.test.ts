import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Documents, type Library } from "../serve/app/documents/index.ts";
import { type Blobs, type OpenStore, openBlobs, openStore } from "../serve/store/index.ts";
import { wordDocument, wordParagraph } from "./support/documents.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-documents-"));
let store: OpenStore;
let documents: Documents;
let blobs: Blobs;
beforeAll(async () => {
  store = await openStore(`sqlite:${path.join(folder, "kiln.db")}`);
  for (const name of ["ada", "ben", "cy"])
    await store.run("INSERT INTO user_account (id, name, role, created_at) VALUES (?, ?, 'member', 1)", [
      `local/${name}`,
      name,
    ]);
  blobs = await openBlobs(`fs:${path.join(folder, "blobs")}`);
  documents = new Documents(store, blobs);
});
afterAll(async () => {
  await documents.close();
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

const add = async (library: Library, name: string, content: string | Uint8Array) =>
  library.add(name, Readable.from([Buffer.from(content as string)]));

/** Waits until a document is read or refused. */
async function settled(library: Library, id: string) {
  for (let i = 0; i < 600; i++) {
    const document = await library.get(id);
    if (document.state === "ready" || document.state === "failed") return document;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`document ${id} was not read within 30 s`);
}

describe("a person's documents", () => {
  it("are kept, read, searched and cited by their passages", async () => {
    const ada = await documents.of("local/ada");
    const word = await add(
      ada,
      "C:\\files\\Returns.docx",
      wordDocument(
        wordParagraph("Returns", "Heading1") +
          wordParagraph("Goods may be returned within 30 days with the receipt."),
      ),
    );
    expect(word).toMatchObject({ isNew: true, document: { name: "Returns.docx", state: "queued" } });
    const notes = await add(ada, "notes.md", "# Opening\n\nThe shop opens at nine on weekdays.\n");
    const read = await settled(ada, word.document.id);
    expect(read).toMatchObject({ state: "ready", kind: "docx", reason: null });
    expect(read.chunks_indexed).toBe(read.chunks_made);
    await settled(ada, notes.document.id);
    const { passages, answered } = await documents.searches.search(
      "local/ada",
      "How many days do I have to return goods?",
      3,
    );
    expect(answered).toBe(true);
    expect(passages[0]).toMatchObject({
      document_id: word.document.id,
      name: "Returns.docx",
      heading: "Returns",
    });
    const all = await ada.passages(word.document.id, 100, -1);
    expect(all.map(({ id }) => id)).toContain(passages[0].id);
    const none = await documents.searches.search("local/ada", "Who painted the ceiling of the chapel?", 3);
    expect(none.answered).toBe(false);
    const { stream } = await ada.content(notes.document.id);
    expect((await buffer(stream as never)).toString()).toMatch(/^# Opening/);
  });

  it("are one where the bytes are the same, and say why they failed", async () => {
    const ada = await documents.of("local/ada");
    const first = await add(ada, "a.txt", "The ferry leaves at noon.");
    await settled(ada, first.document.id);
    expect(await add(ada, "b.txt", "The ferry leaves at noon.")).toMatchObject({
      isNew: false,
      document: { id: first.document.id, name: "a.txt" },
    });
    const broken = await add(ada, "broken.pdf", "%PDF-1.4 nothing");
    expect(await settled(ada, broken.document.id)).toMatchObject({
      state: "failed",
      reason: expect.stringMatching(/damaged/),
      chunks_made: 0,
    });
    expect(await add(ada, "broken.pdf", "%PDF-1.4 nothing")).toMatchObject({
      isNew: true,
      document: { id: broken.document.id },
    });
    await settled(ada, broken.document.id);
    await expect(add(ada, "empty", "")).rejects.toMatchObject({ status: 422, code: "empty_file" });
  });

  it("are seen by nobody else, and leave nothing behind", async () => {
    const [ben, cy] = await Promise.all(["local/ben", "local/cy"].map((id) => documents.of(id)));
    const canary = "xylophone-7431 is the password of the safe";
    const { document } = await add(ben, "secret.txt", canary);
    const same = await add(cy, "secret.txt", canary);
    expect(same).toMatchObject({ isNew: true });
    expect(same.document.id).not.toBe(document.id);
    await settled(ben, document.id);
    await settled(cy, same.document.id);
    for (const look of [
      cy.get(document.id),
      cy.passages(document.id, 10, -1),
      cy.content(document.id),
      cy.remove(document.id),
    ])
      await expect(look).rejects.toMatchObject({ status: 404 });
    await cy.remove(same.document.id);
    expect((await documents.searches.search("local/cy", "password of the safe", 3)).passages).toEqual([]);
    expect((await documents.searches.search("local/ben", "password of the safe", 3)).passages.length).toBe(1);
    expect(await ben.clear()).toEqual({ document: 1, chunk: 1, blob: 1 });
    expect((await documents.searches.search("local/ben", "password of the safe", 3)).passages).toEqual([]);
    const left = await store.all<{ n: number }>(
      "SELECT (SELECT count(*) FROM chunk WHERE text LIKE '%7431%') + (SELECT count(*) FROM document WHERE name = 'secret.txt') AS n",
    );
    expect(left[0]!.n).toBe(0);
    for await (const { key } of blobs.list()) expect(key).not.toContain(document.sha256);
  });

  it("have limits, before anything is kept", async () => {
    const cy = await documents.of("local/cy");
    const endless = Readable.from(
      (async function* () {
        for (let i = 0; i < 60; i++) yield Buffer.alloc(1e6);
      })(),
    );
    await expect(cy.add("large", endless)).rejects.toMatchObject({
      status: 413,
      message: expect.stringMatching(/more than 50 MB/),
    });
    await store.run(
      "INSERT INTO document (id, user_id, name, bytes, sha256, blob_key, state, created_at) VALUES ('big', 'local/cy', 'big', 499999999, 'x', 'x', 'ready', 1)",
    );
    await expect(add(cy, "more", "two words")).rejects.toMatchObject({
      status: 413,
      message: expect.stringMatching(/delete documents first/),
    });
    await store.run("DELETE FROM document WHERE id = 'big'");
    expect((await cy.list(10)).documents).toEqual([]);
  });

  it("are read by the next run where one ended in the middle", async () => {
    const cy = await documents.of("local/cy");
    const words = Array.from({ length: 400 }, (_, i) => `Sentence ${i} of the long story is here.`).join(" ");
    const { document } = await add(cy, "long.txt", words);
    await documents.close();
    const state = (await cy.get(document.id)).state;
    documents = new Documents(store, blobs);
    await documents.resume();
    const read = await settled(await documents.of("local/cy"), document.id);
    expect(read.state, `was ${state}`).toBe("ready");
    expect(read.chunks_made).toBeGreaterThan(10);
  });
});
