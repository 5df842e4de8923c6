import { packageVersion } from "../../../core/platform/package_node.ts";
import { openApi } from "../openapi.ts";
import type { Route } from "../route.ts";

/** kiln's version. */
export const ours = packageVersion();

/** GET /version. */
export const version: Route = {
  method: "GET",
  path: "/version",
  summary: "The server's version",
  open: true,
  handle: () => ({ version: ours }),
};

/** GET /load: as vLLM's, how many sequences are being answered or wait for it. */
export const load: Route = {
  method: "GET",
  path: "/load",
  summary: "Sequences that run or wait",
  handle: ({ service }) => {
    const engines = new Set([...service.models].map(([, { frontend }]) => frontend.engine));
    const stats = [...engines].map((engine) => engine.stats());
    const sum = (counts: readonly number[]) => counts.reduce((total, count) => total + count, 0);
    const running = sum(stats.map((one) => one.running));
    const waiting = sum(stats.map((one) => one.waiting));
    return { server_load: running + waiting, running, waiting };
  },
};

/** GET /openapi.json: every route with the schema that checks its bodies. */
export const openapi: Route = {
  method: "GET",
  path: "/openapi.json",
  summary: "This description, as OpenAPI 3.1",
  handle: ({ service }) => openApi(service.routes, service.limits),
};
