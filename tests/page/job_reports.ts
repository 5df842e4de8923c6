import type { JobEvent, JobInfo } from "../../serve/app/protocol.ts";
import type { Handler } from "./reports.ts";

const at = Date.UTC(2026, 10, 20, 9);

/** A fine-tune that is done, and what it said. */
export const done: JobInfo = {
  ...{ id: "j1", kind: "finetune", state: "succeeded", cancelling: false, error: null, progress: 1 },
  ...{ attempt: 1, created_at: at, started_at: at + 1000, finished_at: at + 60_000, resumes: null },
  parameters: {
    ...{ epochs: 5, learning_rate: 0.001, rank: 8, base: "demo", dataset: "documents", method: "lora" },
  },
  result: {
    ...{ version: "user-local@3", base: "demo@3", steps: 40, published: "assistant@4" },
    loss: { first: 3.1, last: 1.2 },
    validation_loss: { first: 2.31, best: 1.87 },
    samples: {
      before: ["User: Tell me about returns\nAssistant: Once upon a time"],
      after: ["User: Tell me about returns\nAssistant: Goods may be returned within 30 days."],
    },
  },
};
export const running: JobInfo = { ...done, id: "j2", state: "running", progress: 0.4, result: null };
export const failed: JobInfo = {
  ...{ ...done, id: "j3", state: "failed", result: null },
  error: "step 12: the loss is NaN; go on from step-000010 at a lower rate",
};
export const cancelled: JobInfo = { ...failed, id: "j4", state: "cancelled", error: null };

export const jobEvents: JobEvent[] = [
  { seq: 1, at, level: "info", message: "started", data: { attempt: 1 } },
  ...Array.from(
    { length: 16 },
    (_, i): JobEvent => ({
      ...{ seq: 2 + i, at: at + i * 500, level: "info", message: i % 5 === 4 ? "measured" : "step" },
      data:
        i % 5 === 4
          ? { step: i + 1, validation_loss: 3 - i * 0.07 }
          : {
              ...{ step: i + 1, steps: 40, loss: 3.1 - i * 0.1, learning_rate: 0.001 },
              ...{ tokens_per_second: 900, eta_s: 24 - i },
            },
    }),
  ),
];

/** As `reports` of the other screens. */
export function jobReports(): Record<string, Handler> {
  return {
    "GET /api/jobs": () => ({ jobs: [done] }),
    "GET /api/jobs/:id": () => done,
    "GET /api/jobs/:id/events": () => ({ events: jobEvents }),
    "POST /api/jobs/:id/cancel": () => ({ ...running, cancelling: true }),
    "POST /api/jobs/:id/resume": () => ({ ...running, id: "j5" }),
    "POST /api/fine-tune": () => ({ job_id: "j2" }),
    "POST /api/fine-tune/estimate": () => ({ examples: 214, tokens: 48_200, steps: 106, bytes: 25.6e6 }),
  };
}
