import type { FineTuneResult, JobEvent, JobInfo } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { number } from "../render/format.ts";
import { api } from "../state/api.ts";
import { chooseModel } from "../state/chat.ts";
import { attempt } from "../state/history.ts";
import { go } from "../state/route.ts";
import { FactsGrid, Failure } from "./parts.tsx";
import { isOpen, useEvents } from "./use_jobs.ts";

/** Of the loss curve. */
const [WIDTH, HEIGHT] = [600, 180];

/** A fine-tune: how far it is, its loss, what it said, and what came of it. */
export function Run({ job, changed }: { job: JobInfo; changed: (id: string) => void }) {
  const { id, state, cancelling, error, progress, result } = job;
  const events = useEvents(id, isOpen(job));
  const act = async (what: "cancel" | "resume") => {
    const now = await attempt(() => api<JobInfo>("POST", `/api/jobs/${id}/${what}`));
    if (now) changed(now.id);
  };
  const steps = events.filter(({ message }) => message === "step");
  const last = steps.at(-1)?.data;
  const facts: [string, unknown][] = [
    [t.finetune.step, last && t.finetune.stepOf(number(last.step as number), number(last.steps as number))],
    [t.finetune.loss, last && number(last.loss as number)],
    [t.finetune.numbers.learning_rate, last?.learning_rate],
    [t.finetune.speed, last?.tokens_per_second && number(last.tokens_per_second as number)],
    [t.finetune.left, state === "running" && last?.eta_s != null && t.finetune.seconds(last.eta_s as number)],
  ];
  const known = facts.flatMap(([name, value]) => (value ? [[name, String(value)] as const] : []));
  return (
    <section class="card">
      <header class="row">
        <h2>{t.finetune.run}</h2>
        <small role="status">{cancelling ? t.finetune.cancelling : t.finetune.states[state]}</small>
        <span class="grow" />
        {isOpen(job) && !cancelling && (
          <button type="button" onClick={() => void act("cancel")}>
            {t.app.cancel}
          </button>
        )}
        {(state === "cancelled" || state === "failed") && (
          <button type="button" onClick={() => void act("resume")}>
            {t.finetune.resume}
          </button>
        )}
      </header>
      {state === "running" && <progress aria-label={t.finetune.states.running} value={progress} max={1} />}
      <Failure of={error} />
      {result && <Result result={result} />}
      <FactsGrid facts={known} />
      <Curve events={events} />
      <Log events={events} />
    </section>
  );
}

function Result({ result }: { result: FineTuneResult }) {
  const { version, loss, validation_loss, samples, published } = result;
  const measured = validation_loss.best !== null;
  const [from, to] = measured ? [validation_loss.first, validation_loss.best] : [loss.first, loss.last];
  return (
    <>
      <p>
        <b>{version}</b>{" "}
        {t.finetune.better(measured ? t.finetune.validationLoss : t.finetune.loss, number(from), number(to))}
      </p>
      <div class="row">
        <button
          type="button"
          class="primary"
          onClick={() => {
            go("chat");
            chooseModel(version.replace(/@.*/, ""));
          }}
        >
          {t.models.chatWith}
        </button>
        <button type="button" onClick={() => go("compare")}>
          {t.screens.compare}
        </button>
        {published && (
          <>
            <span>{t.finetune.published(published)}</span>
            <button type="button" onClick={() => go("experiments")}>
              {t.experiments.start}
            </button>
            <button type="button" onClick={() => go("models")}>
              {t.models.deploy}
            </button>
          </>
        )}
      </div>
      {samples.after.map((after, i) => (
        <div key={i} class="side-by-side">
          <div>
            <h3>{t.finetune.before}</h3>
            <pre>{samples.before[i]}</pre>
          </div>
          <div>
            <h3>{t.finetune.after}</h3>
            <pre>{after}</pre>
          </div>
        </div>
      ))}
    </>
  );
}

type Point = readonly [step: number, value: number];

/** The losses by step: a line for what is learned from, one for what is held out. */
function Curve({ events }: { events: JobEvent[] }) {
  const points = (key: string): Point[] =>
    events.flatMap(({ data }) => {
      const [step, value] = [data?.step, data?.[key]];
      return typeof step === "number" && typeof value === "number" ? [[step, value] as const] : [];
    });
  const [loss, held] = [points("loss"), points("validation_loss")];
  const all = [...loss, ...held];
  if (all.length < 2) return null;
  const right = Math.max(...all.map(([step]) => step), 1);
  const top = Math.max(...all.map(([, value]) => value)) * 1.05;
  const line = (list: readonly Point[]) =>
    list.map(([step, value]) => `${(step / right) * WIDTH},${HEIGHT - (value / top) * HEIGHT}`).join(" ");
  const [first, end] = [all[0]![1], loss.at(-1)?.[1] ?? 0];
  return (
    <figure class="chart">
      <figcaption>{t.finetune.curve}</figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={t.finetune.curveFrom(number(first), number(end))}
        class="loss-curve"
      >
        <polyline points={line(loss)} />
        <polyline points={line(held)} class="held-out" />
      </svg>
      <small>{t.finetune.legend}</small>
    </figure>
  );
}

const LAST_LINES = 20;

function Log({ events }: { events: JobEvent[] }) {
  const lines = events
    .filter(({ message }) => message !== "step")
    .flatMap(({ at, message, data }) => {
      const time = new Date(at).toLocaleTimeString("en");
      const { lines: said, ...rest } = data ?? {};
      const numbers = Object.entries(rest).map(([name, value]) => `${name} ${value}`);
      return [`${time} ${message} ${numbers.join(", ")}`, ...((said as string[] | undefined) ?? [])];
    })
    .slice(-LAST_LINES);
  if (lines.length === 0) return null;
  return (
    <>
      <h3>{t.finetune.log}</h3>
      <pre class="log-lines" tabIndex={0}>
        {lines.join("\n")}
      </pre>
    </>
  );
}
