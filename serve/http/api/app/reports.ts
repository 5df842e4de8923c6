import { z } from "zod";
import { analytics } from "../../../app/analytics.ts";
import { AppError } from "../../../app/app_error.ts";
import type { Experiments } from "../../../app/experiments/experiments.ts";
import type { Experiment } from "../../../app/protocol.ts";
import { dayNumber, dayOf, usageReport } from "../../../app/usage.ts";
import type { Route } from "../../route.ts";
import { type AppCall, appRoute, queryOf } from "./app_route.ts";

/** Days that a report is of where the query does not say. */
const DAYS = 30;

/** The days of ?from= and ?to=, both included; whose numbers the caller may see. @throws AppError 422. */
function rangeOf({ principal, reply }: AppCall<unknown>) {
  const query = queryOf(reply.request);
  const day = (name: "from" | "to", byDefault: number) => {
    const text = query[name];
    return text === undefined ? byDefault : dayNumber(text, name);
  };
  const to = day("to", dayOf(Date.now()));
  const from = day("from", to - DAYS + 1);
  if (from > to) throw new AppError(422, "invalid_query", "from: must not be after to", "from");
  return { from, to, userId: principal.role === "admin" ? null : principal.id };
}

const numbers = appRoute({
  method: "GET",
  path: "/api/analytics",
  summary: "Numbers about the use of models from a day ?from= to a day ?to=",
  handle: (call) => {
    const { model, by } = queryOf(call.reply.request);
    if (by !== undefined && by !== "model" && by !== "user" && by !== "day")
      throw new AppError(422, "invalid_query", "by: must be model, user or day", "by");
    const groups = by === "day" ? null : (by ?? null);
    return analytics(call.application.store, { ...rangeOf(call), model: model ?? null, by: groups });
  },
});

const usage = appRoute({
  method: "GET",
  path: "/api/usage",
  summary: "Requests, tokens and costs by day, user and model",
  handle: (call) => usageReport(call.application.store, rangeOf(call)),
});

const ABOUT_ALL = "experiments are about everybody's answers, and are for";
const reference = z.string().min(1).max(200);

const experiments = appRoute({
  method: "GET",
  path: "/api/experiments",
  summary: "Experiments between two versions of a model",
  admins: ABOUT_ALL,
  handle: async ({ application }) => ({ experiments: await application.experiments.list() }),
});

const start = appRoute({
  method: "POST",
  path: "/api/experiments",
  summary: "Start an experiment: a share of those who ask for the control is answered by the treatment",
  example: { name: "warmer", control: "assistant@prod", treatment: "assistant@3", split: 0.5 },
  schema: () =>
    z.object({
      name: z.string().regex(/^[^/\s][^/\n]{0,99}$/, "must be 1 to 100 characters without /"),
      control: reference,
      treatment: reference,
      split: z.number().gt(0).lt(1).optional(),
      unit: z.enum(["user", "conversation"]).optional(),
      alpha: z.number().gt(0).max(0.5).optional(),
    }),
  admins: ABOUT_ALL,
  status: 201,
  handle: ({ application, body }) => application.experiments.start(body as never),
});

const ofOne = (
  method: "GET" | "POST",
  path: string,
  summary: string,
  act: (experiments: Experiments, id: string) => Promise<Experiment>,
) =>
  appRoute({
    ...{ method, path, summary },
    admins: ABOUT_ALL,
    handle: ({ application, params }) => act(application.experiments, params.id!),
  });
const experiment = ofOne("GET", "/api/experiments/:id", "An experiment up to now", (all, id) => all.get(id));
const stop = ofOne("POST", "/api/experiments/:id/stop", "End an experiment without a change", (all, id) =>
  all.stop(id),
);

const promote = appRoute({
  method: "POST",
  path: "/api/experiments/:id/promote",
  summary: "End an experiment: the control's alias stands for this arm from now on",
  example: { arm: "assistant@3" },
  schema: () => z.object({ arm: reference }),
  admins: ABOUT_ALL,
  handle: ({ application, params, body }) => application.experiments.promote(params.id!, body.arm),
});

export const reportRoutes: readonly Route[] = [
  ...[numbers, usage],
  ...[experiments, start, experiment, stop, promote],
];
