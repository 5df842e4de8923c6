import { Readable } from "node:stream";
import { expect } from "vitest";
import type { Application } from "../../serve/app/application.ts";

/** Adds a text to a user's documents, and waits until it can be found. @returns its id. */
export async function addDocument(
  application: Application,
  user: string,
  name: string,
  text: string,
): Promise<string> {
  const library = await application.documents.of(user);
  const { document } = await library.add(name, Readable.from([Buffer.from(text)]));
  for (let i = 0; i < 600; i++) {
    const { state } = await library.get(document.id);
    if (state === "ready") return document.id;
    expect(state).not.toBe("failed");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`${name} was not read`);
}
