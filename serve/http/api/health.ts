import { HttpError } from "../errors.ts";
import type { Route } from "../route.ts";

/** GET /health: 200 while requests are accepted, else 503. */
export const health: Route = {
  method: "GET",
  path: "/health",
  open: true,
  handle: ({ service }) => {
    for (const [, { frontend }] of service.models) {
      const [message, code] = PROBLEMS[frontend.engine.state] ?? [];
      if (message !== undefined) throw new HttpError(503, message, { code });
    }
    return { status: "ok" };
  },
};

const PROBLEMS: Record<string, readonly [message: string, code: string] | undefined> = {
  draining: ["the server is shutting down", "shutting_down"],
  hung: ["the model does not respond", "engine_unavailable"],
  failing: ["the model fails on every step", "engine_failing"],
};
