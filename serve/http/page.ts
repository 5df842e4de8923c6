import { createHash } from "node:crypto";
import { readdir, readFile, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { packageRoot } from "../../core/platform/package_node.ts";

/** A file of the page as it is sent. */
export interface PageFile {
  readonly body: Buffer;
  /** The body for those who accept gzip. */
  readonly gzip: Buffer;
  readonly headers: Readonly<Record<string, string>>;
}

/** Nothing runs, loads or is spoken to that is not this server's, and no other site shows the page inside its own. */
const policy = [
  "default-src 'self'",
  "img-src 'self' data: blob:",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** Where the files are that are no assets' own names. */
const places: Record<string, string> = { "/index.html": "/", "/notices.html": "/notices" };

const types: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".webmanifest": "application/manifest+json",
};

/**
 * The files of the page by their paths: `/`, `/sw.js`, `/manifest.webmanifest`, `/notices`, `/assets/…`. A package has them built; from source
 * they are built when a source is newer, which takes some tenths of a second.
 *
 * @throws esbuild's error where a source is wrong
 */
export async function openPage(): Promise<Map<string, PageFile>> {
  const built = path.join(packageRoot, "dist/page");
  const source = path.join(packageRoot, "serve/page");
  const [newest, made] = await Promise.all([lastChange(source), lastChange(built)]);
  if (newest <= made) return readPage(built);
  const { buildPage } = await import("../page/build.ts");
  // Aside first: two servers may start at once, and each reads what it built itself.
  const aside = `${built}-${process.pid}`;
  await buildPage(aside);
  const files = await readPage(aside);
  await rm(built, { recursive: true, force: true });
  await rename(aside, built).catch(() => rm(aside, { recursive: true, force: true }));
  return files;
}

/**
 * The files of the playground by their paths, `/playground/…`, as bin/build.ts left them; in a clone where it was not run they are built.
 *
 * @throws esbuild's error where a source is wrong
 */
export async function openPlayground(): Promise<Map<string, PageFile>> {
  const built = path.join(packageRoot, "dist/playground");
  const files = await readPage(built).catch(async () => {
    const aside = `${built}-${process.pid}`;
    // By its place: no package has it, and none needs it.
    const { buildPlayground } = await import(pathToFileURL(path.join(packageRoot, "bin/playground.ts")).href);
    await buildPlayground(aside);
    const read = await readPage(aside);
    await rename(aside, built).catch(() => rm(aside, { recursive: true, force: true }));
    return read;
  });
  return new Map([...files].map(([name, file]) => [`/playground${name}`, file]));
}

/** When the newest file of a folder was written; -1: there is none. */
async function lastChange(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const files = entries.filter((entry) => entry.isFile());
  const times = await Promise.all(
    files.map(async (entry) => (await stat(path.join(entry.parentPath, entry.name))).mtimeMs),
  );
  return Math.max(-1, ...times);
}

/** Reads a folder that `buildPage` wrote. */
export async function readPage(folder: string): Promise<Map<string, PageFile>> {
  const names = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = names.filter((entry) => entry.isFile());
  const read = files.map(async ({ parentPath, name }): Promise<[string, PageFile]> => {
    const file = path.join(parentPath, name);
    const body = await readFile(file);
    const where = `/${path.relative(folder, file).replaceAll(path.sep, "/")}`;
    // A name with a hash never has another content.
    const immutable = /-[A-Z0-9]{8}\.\w+$/.test(name);
    const headers = {
      "content-type": types[path.extname(name)] ?? "application/octet-stream",
      "cache-control": immutable ? "public, max-age=31536000, immutable" : "no-cache",
      etag: `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`,
      "content-security-policy": policy,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      vary: "Origin, Accept-Encoding",
    };
    return [places[where] ?? where, { body, gzip: gzipSync(body), headers }];
  });
  return new Map(await Promise.all(read));
}
