import type { Upstream } from "./upstream.ts";
import { UpstreamError } from "./upstream_error.ts";

/** One thing that was tried at a provider. */
export interface Probed {
  readonly what: string;
  /** null: the provider does not tell. */
  readonly ok: boolean | null;
  readonly detail: string;
}

function faultOf(error: unknown): UpstreamError {
  if (error instanceof UpstreamError) return error;
  throw error;
}

/** Tries a provider, step by step until one fails: can it be reached, is its key good, has it the models, and does one answer. */
export async function* probe(upstream: Upstream, now = () => performance.now()): AsyncGenerator<Probed> {
  const { signal } = new AbortController();
  const begun = now();
  let listed: string[] | null = null;
  let failed: UpstreamError | null = null;
  try {
    listed = await upstream.models(signal);
  } catch (error) {
    failed = faultOf(error);
  }
  const code = failed?.code ?? null;
  const away =
    code === "upstream_unavailable" || code === "upstream_timeout" || code === "upstream_forbidden";
  if (upstream.dialect.list !== null) {
    const took = `${Math.round(now() - begun)} ms`;
    yield { what: "reachable", ok: !away, detail: failed && away ? failed.message : took };
    if (away) return;
    yield* keyLine(upstream, code === null ? true : code === "upstream_key_refused" ? false : null);
    if (code === "upstream_key_refused") return;
  }
  const models = Object.entries(upstream.settings.models);
  for (const [name, { model = name }] of models) {
    const ok = listed?.includes(model) ?? null;
    const near = listed?.slice(0, 5).join(", ");
    yield {
      what: `model ${name}`,
      ok,
      detail: ok === null ? "it has no list" : ok ? "there" : `not in its list: ${near} …`,
    };
  }
  const [first] = models;
  if (first !== undefined) yield* firstToken(upstream, first, now);
}

function* keyLine(upstream: Upstream, accepted: boolean | null): Generator<Probed> {
  const details = {
    set: "yes",
    missing: "there is none: set what key_env or key_file names",
    "not needed": "none is sent",
  };
  const ok = upstream.key === "missing" ? false : accepted;
  yield { what: "key accepted", ok, detail: accepted === false ? "it is refused" : details[upstream.key] };
}

async function* firstToken(
  upstream: Upstream,
  [name, { model = name, task }]: [string, Upstream["settings"]["models"][string]],
  now: () => number,
): AsyncGenerator<Probed> {
  const turns = [
    { role: "user" as const, content: task === "fill-mask" ? "The cat [MASK]." : "Say one word." },
  ];
  const call = {
    model,
    task,
    turns,
    params: { max_tokens: 1, temperature: 0 },
    continues: false,
    scores: false,
  };
  const begun = now();
  let first: number | null = null;
  try {
    for await (const piece of upstream.ask(call, { signal: new AbortController().signal, tokens: 8 }))
      if (piece.text) first ??= now() - begun;
    const detail = first === null ? "an answer without text" : `${Math.round(first)} ms`;
    yield { what: "first token", ok: first !== null, detail };
  } catch (error) {
    yield { what: "first token", ok: false, detail: faultOf(error).message };
  }
}
