import { HttpError } from "../../errors.ts";
import type { PageFile } from "../../page.ts";
import type { Call, Route } from "../../route.ts";

type Pages = "openPage" | "openPlayground";
/** Files of pages, which are read when the first of them is asked for: a server starts without them. */
const opening = new Map<Pages, Promise<Map<string, PageFile>>>();

function openFiles(pages: Pages): Promise<Map<string, PageFile>> {
  const files =
    opening.get(pages) ??
    import("../../page.ts")
      .then((page) => page[pages]())
      .catch((error) => {
        opening.delete(pages);
        throw error;
      });
  opening.set(pages, files);
  return files;
}

const pageRoute = (path: string, summary: string, pages: Pages = "openPage"): Route => ({
  ...{ method: "GET", path, summary, open: true },
  handle: (call: Call) => sendFile(call, pages),
});

async function sendFile({ rest, reply }: Call, pages: Pages): Promise<unknown> {
  const { headers, routeOptions } = reply.request;
  const file = (await openFiles(pages)).get(routeOptions.url!.replace("*", rest));
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
  pageRoute("/notices", "The notice board"),
  pageRoute("/notices-sw.js", "The notice board's service worker"),
  pageRoute("/notices.webmanifest", "The notice board as an application to install"),
  pageRoute("/assets/*", "The page's scripts and styles"),
  {
    ...{ method: "GET", path: "/playground", summary: "The way to the playground", open: true },
    // Its files are named from where it is.
    handle: ({ reply }) => reply.redirect("/playground/", 308),
  },
  pageRoute("/playground/*", "The playground, which trains in the browser", "openPlayground"),
];
