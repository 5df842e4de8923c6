import { z } from "zod";
import { AppError } from "../../../app/app_error.ts";
import type { AskedParameters } from "../../../app/jobs/fine_tuning.ts";
import type { JobEvents, JobInfos } from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { appRoute, limitOf, queryOf, wholeOf } from "./app_route.ts";

const parameters = z.strictObject({
  epochs: z.int().min(1).max(50).optional(),
  learning_rate: z.number().min(1e-6).max(1e-2).optional(),
  rank: z.int().min(1).max(64).optional(),
  base: z.string().min(1).max(200).optional(),
  dataset: z.enum(["documents", "conversations", "corrections"]).optional(),
  method: z.enum(["lora", "qlora", "dpo"]).optional(),
  publish: z.string().min(1).max(96).optional(),
});

const body = () => z.object({ user_id: z.string().min(1).max(100), parameters: parameters.optional() });

const estimate = appRoute({
  method: "POST",
  path: "/api/fine-tune/estimate",
  summary: "What a fine-tune would learn from, and how long it would take",
  example: { user_id: "12345" },
  schema: body,
  handle: async ({ application, userId, body: { parameters: asked = {} } }) =>
    (await application.jobs.fineTuning()).estimate(userId, asked as AskedParameters),
});

const fineTune = appRoute({
  method: "POST",
  path: "/api/fine-tune",
  summary: "Teach a model of the caller's own what the caller gave, as a job",
  example: { user_id: "12345", parameters: { epochs: 5, learning_rate: 0.001 } },
  schema: body,
  status: 202,
  handle: async ({ application, principal, userId, body: { parameters: given = {} } }) => {
    const asked = given as AskedParameters;
    if (asked.publish !== undefined && principal.role !== "admin")
      throw new AppError(403, "admins_only", "parameters.publish: models are changed by admins alone");
    return (await application.jobs.fineTuning()).start(userId, asked);
  },
});

const list = appRoute({
  method: "GET",
  path: "/api/jobs",
  summary: "The caller's jobs, those of a ?kind= alone, the newest first",
  handle: async (call): Promise<JobInfos> => {
    const jobs = await call.application.jobs.of(call.userId);
    return { jobs: await jobs.list(queryOf(call.reply.request).kind, limitOf(call as never)) };
  },
});

const one = (path: string, summary: string) =>
  appRoute({
    method: "GET",
    path,
    summary,
    handle: async ({ application, userId, params }) => (await application.jobs.of(userId)).get(params.id!),
  });

const events = appRoute({
  method: "GET",
  path: "/api/jobs/:id/events",
  summary: "What was told of a job after the event ?after=",
  handle: async (call): Promise<JobEvents> => {
    const jobs = await call.application.jobs.of(call.userId);
    const after = wholeOf(call as never, "after", 0, 1e9);
    return { events: await jobs.events(call.params.id!, after, limitOf(call as never)) };
  },
});

const cancel = appRoute({
  method: "POST",
  path: "/api/jobs/:id/cancel",
  summary: "End a job; what a fine-tune has learned is kept for its resume",
  status: 202,
  handle: async ({ application, userId, params }) => (await application.jobs.of(userId)).cancel(params.id!),
});

const resume = appRoute({
  method: "POST",
  path: "/api/jobs/:id/resume",
  summary: "Go on with a fine-tune that was cancelled or failed, as another job",
  status: 202,
  handle: async ({ application, userId, params }) => (await application.jobs.of(userId)).resume(params.id!),
});

export const jobRoutes: readonly Route[] = [
  ...[estimate, fineTune, one("/api/fine-tune/:id", "A fine-tune, as /api/jobs/:id"), list],
  ...[one("/api/jobs/:id", "A job and how far it is"), events, cancel, resume],
];
