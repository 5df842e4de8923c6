import type {
  Analytics,
  ApiKey,
  DataStatistics,
  Experiment,
  ModelVersion,
  NewExperiment,
  PreviewResult,
  ProviderList,
} from "../../serve/app/protocol.ts";
import { documentRoutes } from "./fake_documents.ts";
import { jobReports } from "./job_reports.ts";

/** A route that only hands something out. */
export type Handler = (body: Record<string, unknown>, params: Record<string, string>) => unknown;

const at = Date.UTC(2026, 10, 20, 9);
const day = (n: number) => new Date(at + n * 86_400_000).toISOString().slice(0, 10);
const days = Array.from({ length: 10 }, (_, n) => n);

const versions: ModelVersion[] = [3, 2, 1].map((version) => ({
  version,
  kind: "base",
  parents: version > 1 ? [`demo@${version - 1}`] : [],
  metrics: { loss: 2.5 - version * 0.2, accuracy: 0.4 + version * 0.1 },
  bytes: 12_800_000,
  content_sha256: "0".repeat(64),
  note: null,
  created_at: at + version * 3_600_000,
}));

const experiment: Experiment = {
  id: "e1",
  name: "assistant",
  state: "running",
  unit: "user",
  metric: "thumbs_up_rate",
  alpha: 0.05,
  tau2: 0.01,
  arms: [0, 1].map((arm) => ({
    name: `demo@${arm + 1}`,
    weight: 0.5,
    exposed: 420 + arm,
    rated: 200,
    up: 120 + 20 * arm,
    rate: 0.6 + 0.1 * arm,
    low: 0.53 + 0.1 * arm,
    high: 0.67 + 0.1 * arm,
    regenerate_rate: 0.08,
    stop_rate: 0.02,
    error_rate: 0.001,
    ttft_p95_ms: 91.4,
  })),
  result: {
    difference: 0.098,
    low: 0.021,
    high: 0.176,
    p_value: 0.01,
    significant: true,
    sample_ratio: { p_value: 0.97, ok: true },
    needed_per_arm: 388,
  },
  history: days.map((n) => ({
    at: at + n * 86_400_000,
    difference: 0.09,
    low: 0.02 - 0.3 / (n + 1),
    high: 0.17 + 0.3 / (n + 1),
  })),
  started_at: at,
  stopped_at: null,
  decision: null,
};

export const analytics: Analytics = {
  from: day(0),
  to: day(9),
  models: ["demo", "stories"],
  totals: {
    sessions: 61,
    users: 7,
    messages: 412,
    answers: 420,
    regenerate_rate: 0.08,
    stop_rate: 0.02,
    coverage: 0.3,
  },
  messages: days.flatMap((n) =>
    ["demo", "stories"].map((model, i) => ({ day: day(n), model, count: 12 + 3 * n - 5 * i })),
  ),
  latency: days.map((n) => ({
    day: day(n),
    answers: 30,
    ttft_p50_ms: 40 + n,
    ttft_p95_ms: 90 + 4 * n,
    speed_p50: 118 - n,
    speed_p95: 140,
    exact: n > 0,
  })),
  thumbs: days.map((n) => ({
    day: day(n),
    up: 8,
    rated: 12,
    answers: 30,
    rate: 0.66,
    low: 0.4 + n / 100,
    high: 0.85,
  })),
  failures: days.map((n) => ({ day: day(n), errors: n % 3, fallbacks: n % 2, stopped: 1, regenerated: 2 })),
  usage: days.map((n) => ({
    day: day(n),
    prompt_tokens: 9000 + n * 500,
    completion_tokens: 4000,
    cost_microusd: 12_000 * n,
    unknown_price: 0,
    estimated: 0,
  })),
  quality: days.map((n) => ({ low: n / 10, high: (n + 1) / 10, count: n * n })),
  retention: [1, 7, 28].map((n) => ({ days: n, users: 7, returned: 5 - Math.min(4, n) })),
};

const spread = { mean: 5.2, p50: 4, p95: 12, max: 40 };
export const statistics: DataStatistics = {
  total_conversations: 214,
  total_messages: 1112,
  turns: spread,
  chars: { user: spread, assistant: spread },
  tokens: { user: spread, assistant: spread },
  sessions: 61,
  models: { demo: 200, stories: 14 },
  ratings: { up: 88, down: 21, rate: 0.807, low: 0.72, high: 0.87 },
  languages: { en: 190, de: 20, und: 4 },
  per_day: days.map((n) => ({ day: day(n), count: 20 })),
  duplicates: { exact: 4, near: 9 },
  type_token_ratio: 0.31,
  lengths: days.map((n) => ({ low: n * 100, high: (n + 1) * 100, count: 40 - n * 4 })),
};

const preview: PreviewResult = {
  total: 214,
  kept: 183,
  dropped: { too_short: 12, near_duplicate: 9, low_quality: 7, toxic: 3 },
  changed: [
    {
      ...{ conversation_id: "c1", role: "user", changes: ["url", "email"] },
      ...{
        before: "Visit https://example.com or write to bob@example.com",
        after: "Visit [URL] or write to [EMAIL]",
      },
    },
  ],
  dropped_rows: [{ conversation_id: "c2", reason: "too_short", detail: "2 of 10 characters", text: "hi" }],
  duplicates: [
    {
      similarity: 0.846,
      kept: { conversation_id: "c3", text: "The quick brown fox jumps near the river bank today" },
      dropped: { conversation_id: "c4", text: "The quick brown fox jumps near the river bank yesterday" },
    },
  ],
};

const keys: ApiKey[] = [
  { id: "k1", prefix: "kiln-4f2a", scopes: ["act_as"], created_at: at, last_used_at: null },
  { id: "k2", prefix: "kiln-99b0", scopes: [], created_at: at, last_used_at: at + 1e8 },
];
const providers: ProviderList["providers"] = [
  { name: "local", dialect: "local", base_url: null, models: ["demo"], key: "not needed", circuit: "closed" },
  {
    ...{ name: "hub", dialect: "openai", base_url: "https://hub.example/v1", models: ["big", "bigger"] },
    ...{ key: "missing", circuit: "open" },
  },
];

/** What the fake server answers with, by `METHOD path`; tests replace what they want otherwise. */
export function reports(): Record<string, Handler> {
  return {
    ...documentRoutes(),
    ...jobReports(),
    "GET /api/models/:name/versions": () => ({ versions }),
    "POST /api/models/:name/aliases/:alias": (body, { name, alias }) => ({
      name,
      alias,
      version: body.version,
    }),
    "POST /api/deploy/ollama": () => ({ name: "demo", url: "x", prompts_checked: 3, tokens_checked: 48 }),
    "GET /api/experiments": () => ({ experiments: [experiment] }),
    "POST /api/experiments": (body) => ({ ...experiment, ...(body as Partial<NewExperiment>) }),
    "POST /api/experiments/:id/stop": () => ({ ...experiment, state: "stopped" }),
    "POST /api/experiments/:id/promote": () => ({ ...experiment, state: "promoted" }),
    "GET /api/analytics": () => analytics,
    "GET /api/data/statistics": () => statistics,
    "POST /api/data/preview": () => preview,
    "GET /api/keys": () => ({ keys }),
    "POST /api/keys": () => ({ ...keys[0], id: "k3", token: "kiln-4f2a-secret" }),
    "DELETE /api/keys/:id": () => ({}),
    "GET /api/providers": () => ({ providers }),
    "DELETE /api/me/data": () => ({ deleted: { conversation: 3, message: 12 } }),
  };
}
