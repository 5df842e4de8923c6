import { createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { HttpError } from "./errors.ts";

/** A form of several parts, whose files are on the disk for as long as it is looked at. */
export interface Upload {
  readonly files: readonly { readonly name: string; readonly path: string }[];
  readonly fields: ReadonlyMap<string, string>;
}

/** What a form may have. */
const LIMITS = { files: 20, fields: 20, fieldSize: 65_536, parts: 40, headerPairs: 100 } as const;

/**
 * Reads a form, and gives it to `look`. The files are gone afterwards.
 * @throws HttpError 400 of what is no form, 413 of a file of more than `fileBytes` or of too many parts
 */
export async function readUpload<T>(
  request: IncomingMessage,
  fileBytes: number,
  look: (upload: Upload) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(path.join(tmpdir(), "kiln-upload-"));
  try {
    return await look(await received(request, folder, fileBytes));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function received(request: IncomingMessage, folder: string, fileBytes: number): Promise<Upload> {
  const files: { name: string; path: string }[] = [];
  const fields = new Map<string, string>();
  const writing: Promise<void>[] = [];
  const form = await opened(request, fileBytes);
  let refusal: HttpError | null = null;
  const refuse = (error: HttpError) => {
    refusal ??= error;
  };
  form.on("field", (name, value, _nameCut, cut) => {
    if (cut) refuse(new HttpError(413, `${name}: is too long`, { param: name, code: "field_too_large" }));
    fields.set(name, value);
  });
  form.on("file", (_field, content: Readable, name) => {
    const file = path.join(folder, String(files.length));
    // What browsers write for a quote and the ends of lines.
    files.push({ name: name.replace(/%(22|0D|0A)/g, (code) => decodeURIComponent(code)), path: file });
    content.on("limit", () => refuse(tooLarge(name, fileBytes)));
    writing.push(pipeline(content, createWriteStream(file)));
  });
  for (const kind of ["partsLimit", "filesLimit", "fieldsLimit"] as const)
    form.on(kind, () =>
      refuse(new HttpError(413, `a form has ${LIMITS.files} files at most`, { code: "too_many_parts" })),
    );
  try {
    await pipeline(request, form);
    await Promise.all(writing);
  } catch (error) {
    await Promise.allSettled(writing);
    throw refusal ?? malformed((error as Error).message);
  }
  if (refusal) throw refusal;
  return { files, fields };
}

async function opened(request: IncomingMessage, fileSize: number) {
  const { Busboy } = await import("@fastify/busboy");
  try {
    const headers = request.headers as { "content-type": string };
    return new Busboy({ headers, limits: { ...LIMITS, fileSize } });
  } catch (error) {
    throw malformed((error as Error).message);
  }
}

const malformed = (why: string) =>
  new HttpError(400, `the form cannot be read: ${why.split("\n")[0]}`, { code: "invalid_form" });
const tooLarge = (name: string, most: number) =>
  new HttpError(413, `${name.slice(0, 100)} has more than ${Math.floor(most / 1e6)} MB: split it`, {
    ...{ param: "file", code: "file_too_large" },
  });
