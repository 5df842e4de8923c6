import { useState } from "preact/hooks";
import type {
  Experiment,
  ExperimentArm,
  ExperimentList,
  ModelList,
  NewExperiment,
} from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { date, milliseconds, number, percent, points } from "../render/format.ts";
import { api } from "../state/api.ts";
import { attempt } from "../state/history.ts";
import { LazyChart } from "./lazy_chart.tsx";
import { Failure, Field, Loaded, Modal, ModelChip, Options, Table } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { useLoaded } from "./use_loaded.ts";

/** Two versions under real use, and what can be said about them so far. */
export function Experiments() {
  const { data, error, load } = useLoaded(() => api<ExperimentList>("GET", "/api/experiments"));
  const [starting, setStarting] = useState(false);
  const start = (
    <button type="button" class="primary" onClick={() => setStarting(true)}>
      {t.experiments.start}
    </button>
  );
  return (
    <ScreenFrame title={t.screens.experiments} aside={start}>
      <Loaded data={data} error={error} retry={load}>
        {({ experiments }) =>
          experiments.length === 0 ? (
            <p class="notice">{t.experiments.none}</p>
          ) : (
            experiments.map((one) => <Card key={one.id} experiment={one} changed={load} />)
          )
        }
      </Loaded>
      {starting && (
        <Start
          close={() => setStarting(false)}
          started={() => {
            setStarting(false);
            load();
          }}
        />
      )}
    </ScreenFrame>
  );
}

function Card({ experiment, changed }: { experiment: Experiment; changed: () => void }) {
  const { id, name, state, arms, history, started_at, unit } = experiment;
  const act = async (what: string, body?: unknown) => {
    if (await attempt(() => api<Experiment>("POST", `/api/experiments/${id}/${what}`, body))) changed();
  };
  return (
    <section class="card">
      <header class="row">
        <h2>{name}</h2>
        <small>
          {t.experiments.since(t.experiments.states[state], date(started_at), t.experiments.units[unit])}
        </small>
        <span class="grow" />
        {state === "running" && (
          <>
            <button type="button" onClick={() => void act("stop")}>
              {t.experiments.stop}
            </button>
            {experiment.result.sample_ratio.ok &&
              arms.map((arm) => (
                <button key={arm.name} type="button" onClick={() => void act("promote", { arm: arm.name })}>
                  {t.experiments.promote(arm.name)}
                </button>
              ))}
          </>
        )}
      </header>
      <p>{verdict(experiment)}</p>
      <Table caption={t.experiments.arms(name)} head={[...t.experiments.columns]} rows={arms.map(armRow)} />
      {history.length > 0 && (
        <LazyChart
          chart={{
            title: t.experiments.overTime,
            unit: "points",
            days: history.map(({ at }) => new Date(at).toISOString().slice(0, 10)),
            series: [
              { name: t.experiments.difference, values: history.map(({ difference }) => scaled(difference)) },
              { name: t.experiments.low, values: history.map(({ low }) => scaled(low)), edge: true },
              { name: t.experiments.high, values: history.map(({ high }) => scaled(high)), edge: true },
            ],
          }}
        />
      )}
    </section>
  );
}

const scaled = (share: number | null) => (share === null ? null : share * 100);

/** What may be said now, in one sentence. */
function verdict({ result, decision, alpha }: Experiment): string {
  const { difference, low, high, significant, sample_ratio, needed_per_arm } = result;
  if (decision) return decision;
  if (!sample_ratio.ok) return t.experiments.mismatch(number(sample_ratio.p_value));
  if (difference === null) return t.experiments.noVotes;
  const interval = t.experiments.interval(points(difference), percent(1 - alpha), points(low), points(high));
  if (significant) return `${interval} ${t.experiments.significant}`;
  return `${interval} ${t.experiments.open(needed_per_arm === null ? null : number(needed_per_arm))}`;
}

const armRow = (arm: ExperimentArm) => [
  <ModelChip name={arm.name} />,
  percent(arm.weight),
  number(arm.exposed),
  t.experiments.votes(arm.up, arm.rated),
  t.data.interval(percent(arm.rate), percent(arm.low), percent(arm.high)),
  percent(arm.regenerate_rate),
  percent(arm.stop_rate),
  percent(arm.error_rate),
  arm.ttft_p95_ms === null ? "–" : milliseconds(arm.ttft_p95_ms),
];

function Start({ close, started }: { close: () => void; started: () => void }) {
  const { data } = useLoaded(() => api<ModelList>("GET", "/api/models"));
  const [error, setError] = useState<string | null>(null);
  const names = (data?.models ?? []).flatMap(({ name, aliases }) => [
    name,
    ...Object.keys(aliases).map((alias) => `${name}@${alias}`),
  ]);
  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const text = (name: string) => String(form.get(name)).trim();
    const body: NewExperiment = {
      name: text("name"),
      control: text("control"),
      treatment: text("treatment"),
      split: Number(text("split")) / 100,
      unit: text("unit") as NewExperiment["unit"] & string,
    };
    await api<Experiment>("POST", "/api/experiments", body).then(started, (problem: Error) =>
      setError(problem.message),
    );
  }
  return (
    <Modal title={t.experiments.start} close={close}>
      <form onSubmit={submit}>
        <Field label={t.experiments.name}>
          <input name="name" required />
        </Field>
        {(["control", "treatment"] as const).map((arm) => (
          <Field key={arm} label={t.experiments[arm]} hint={t.experiments.armHint}>
            <input name={arm} required list="model-names" />
          </Field>
        ))}
        <datalist id="model-names">
          <Options of={names} />
        </datalist>
        <Field label={t.experiments.split}>
          <input name="split" type="number" min={1} max={99} defaultValue="50" required />
        </Field>
        <Field label={t.experiments.unit}>
          <select name="unit">
            <Options of={t.experiments.units} />
          </select>
        </Field>
        <Failure of={error} />
        <div class="row end">
          <button type="submit" class="primary">
            {t.experiments.start}
          </button>
        </div>
      </form>
    </Modal>
  );
}
