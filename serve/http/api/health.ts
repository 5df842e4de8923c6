import { HttpError } from "../errors.ts";
import type { Route, Service } from "../route.ts";

/** GET /health: 200 while the server works, else 503. */
export const health: Route = {
  method: "GET",
  path: "/health",
  summary: "Whether the server works",
  open: true,
  handle: ({ service }) => {
    assertWorking(service);
    return { status: "ok" };
  },
};

/** GET /ready: 200 while a request would be taken now, else 503; a full queue is no fault, but others may be free. */
export const ready: Route = {
  method: "GET",
  path: "/ready",
  summary: "Whether a request would be taken now",
  open: true,
  handle: ({ service }) => {
    assertWorking(service);
    const models = [...service.models];
    if (models.length === 0) throw new HttpError(503, "no model is loaded yet", { code: "no_model" });
    const { queuedRequests, queuedTexts } = service.limits;
    for (const [name, { kind, frontend }] of models) {
      if (frontend.engine.stats().waiting < (kind === "text" ? queuedRequests : queuedTexts)) continue;
      throw new HttpError(503, `the queue of \`${name}\` is full`, {
        code: "queue_full",
        headers: { "retry-after": "1" },
      });
    }
    return { status: "ok" };
  },
};

function assertWorking({ models }: Service): void {
  for (const [, { frontend }] of models) {
    const [message, code] = PROBLEMS[models.closing ? "draining" : frontend.engine.state] ?? [];
    if (message !== undefined) throw new HttpError(503, message, { code });
  }
}

const PROBLEMS: Record<string, readonly [message: string, code: string] | undefined> = {
  draining: ["the server is shutting down", "shutting_down"],
  hung: ["the model does not respond", "engine_unavailable"],
  starting: ["the model is being started again", "engine_unavailable"],
  failing: ["the model fails on every step", "engine_failing"],
};
