import { HttpError } from "../../errors.ts";
import type { PageFile } from "../../page.ts";
import type { Call, Route } from "../../route.ts";

/** The files of the page, which are read when the first of them is asked for: a server starts without them. */
let opening: Promise<Map<string, PageFile>> | null = null;

function openFiles(): Promise<Map<string, PageFile>> {
  opening ??= import("../../page.ts")
    .then(({ openPage }) => openPage())
    .catch((error) => {
      opening = null;
      throw error;
    });
  return opening;
}

const pageRoute = (path: string, summary: string): Route => ({
  ...{ method: "GET", path, summary, open: true },
  handle: sendFile,
});

async function sendFile({ rest, reply }: Call): Promise<unknown> {
  const { headers, routeOptions } = reply.request;
  const file = (await openFiles()).get(routeOptions.url!.replace("*", rest));
  if (file === undefined) throw new HttpError(404, "the page has no such file", { code: "not_found" });
  reply.headers(file.headers);
  if (names(headers["if-none-match"], file.headers.etag!)) return reply.code(304).send();
  if (!takesGzip(headers["accept-encoding"])) return reply.send(file.body);
  return reply.header("content-encoding", "gzip").send(file.gzip);
}

/** Whether `If-None-Match` names what the client would get. */
const names = (condition: string | undefined, etag: string): boolean =>
  (condition ?? "").split(",").some((part) => ["*", etag, `W/${etag}`].includes(part.trim()));

/** Whether `Accept-Encoding` has gzip, and not as `gzip;q=0`. */
const takesGzip = (accepted: string | string[] | undefined): boolean =>
  [accepted ?? []].flat().some((line) => /(^|[\s,])gzip\s*(,|$|;\s*q=(?!0(\.0*)?\s*(,|$)))/i.test(line));

export const pageRoutes: readonly Route[] = [
  pageRoute("/", "The page"),
  pageRoute("/sw.js", "The page's service worker"),
  pageRoute("/manifest.webmanifest", "The page as an application to install"),
  pageRoute("/assets/*", "The page's scripts and styles"),
];
