import { useState } from "preact/hooks";
import type {
  FineTuneAsked,
  FineTuneBody,
  FineTuneEstimate,
  FineTuneStarted,
  JobInfo,
  ModelList,
} from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { bytes, number } from "../render/format.ts";
import { api } from "../state/api.ts";
import { attempt } from "../state/history.ts";
import { user } from "../state/people.ts";
import { Field, Form, Loaded, Options } from "./parts.tsx";
import { Run } from "./run.tsx";
import { ScreenFrame } from "./screen.tsx";
import { useJobs } from "./use_jobs.ts";
import { useLoaded } from "./use_loaded.ts";

const PRESETS = {
  small: { epochs: 5, learning_rate: 1e-3, rank: 8 },
  quick: { epochs: 1, learning_rate: 1e-3, rank: 8 },
  thorough: { epochs: 20, learning_rate: 5e-4, rank: 16 },
} as const;

/** A model of one's own: what it is made from, what it learns, and how that goes. */
export function FineTune() {
  const { jobs: known, error, load } = useJobs();
  const [chosen, choose] = useState<string | null>(null);
  return (
    <ScreenFrame title={t.screens.finetune}>
      <Wizard
        started={(id) => {
          choose(id);
          load();
        }}
      />
      <Loaded data={known} error={error} retry={load}>
        {(jobs) => (
          <>
            <Queue jobs={jobs} chosen={chosen ?? jobs[0]?.id ?? null} choose={choose} />
            {jobs
              .filter(({ id }) => id === (chosen ?? jobs[0]?.id))
              .map((job) => (
                <Run
                  key={job.id}
                  job={job}
                  changed={(id) => {
                    choose(id);
                    load();
                  }}
                />
              ))}
          </>
        )}
      </Loaded>
    </ScreenFrame>
  );
}

function Queue(props: { jobs: JobInfo[]; chosen: string | null; choose: (id: string) => void }) {
  if (props.jobs.length === 0) return <p class="note">{t.finetune.none}</p>;
  return (
    <section>
      <h2>{t.finetune.jobs}</h2>
      <ul class="cards-list">
        {props.jobs.map(({ id, state, progress, parameters, created_at, result }) => (
          <li key={id} class={id === props.chosen ? "card chosen" : "card"}>
            <button
              type="button"
              class="card-main"
              aria-pressed={id === props.chosen}
              onClick={() => props.choose(id)}
            >
              <span>
                {t.finetune.of(
                  parameters?.base ?? "",
                  t.finetune.datasets[parameters?.dataset ?? "documents"],
                )}
              </span>
              <small>
                {result?.version ?? t.finetune.states[state]}{" "}
                {state === "running" && t.finetune.share(progress)}
              </small>
              <small>{t.finetune.begun(created_at)}</small>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

type Asked = FineTuneAsked & { publish?: string };

/** Base, data, preset; the numbers behind a preset are folded. */
function Wizard({ started }: { started: (id: string) => void }) {
  const models = useLoaded(() => api<ModelList>("GET", "/api/models"));
  const [asked, setAsked] = useState<Asked>(PRESETS.small);
  const [preset, setPreset] = useState("small");
  const set = (more: Asked) => setAsked((before) => ({ ...before, ...more }));
  const body: FineTuneBody = { user_id: user.value?.id ?? "", parameters: asked };
  const { data: estimate, error } = useLoaded(
    () => api<FineTuneEstimate>("POST", "/api/fine-tune/estimate", body),
    [JSON.stringify(body)],
  );
  const bases = (models.data?.models ?? []).filter(({ chat, kind }) => chat && kind !== "adapter");
  const start = async () => {
    const done = await attempt(() => api<FineTuneStarted>("POST", "/api/fine-tune", body));
    if (done) started(done.job_id);
  };
  return (
    <Form class="card" submit={start}>
      <h2>{t.finetune.new}</h2>
      <div class="row form-row">
        <Field label={t.finetune.base}>
          <select onChange={(event) => set({ base: event.currentTarget.value })}>
            <Options of={bases.map(({ name }) => name)} />
          </select>
        </Field>
        <Field label={t.finetune.dataset}>
          <select
            onChange={({ currentTarget: { value } }) => {
              set({ dataset: value === "" ? undefined : (value as keyof typeof t.finetune.datasets) });
            }}
          >
            <option value="">{t.finetune.whatThereIs}</option>
            <Options of={t.finetune.datasets} />
          </select>
        </Field>
        <Field label={t.finetune.preset}>
          <select
            onChange={({ currentTarget: { value } }) => {
              setPreset(value);
              set(PRESETS[value as keyof typeof PRESETS]);
            }}
          >
            <Options of={t.finetune.presets} />
          </select>
        </Field>
      </div>
      <Advanced preset={preset} asked={asked} set={set} />
      <p role="status">
        {estimate &&
          !error &&
          t.finetune.estimate(
            number(estimate.examples),
            number(estimate.tokens),
            number(estimate.steps),
            bytes(estimate.bytes),
          )}
      </p>
      {error && (
        <p class="notice" role="alert">
          {error} <a href="#/data">{t.screens.data}</a>
        </p>
      )}
      <div class="row end">
        <button type="submit" class="primary" disabled={error !== null || estimate === null}>
          {t.finetune.start}
        </button>
      </div>
    </Form>
  );
}

const NUMBERS = [
  ["epochs", { min: 1, max: 50, step: 1 }],
  ["learning_rate", { min: 1e-6, max: 1e-2, step: "any" }],
  ["rank", { min: 1, max: 64, step: 1 }],
] as const;

/** Fields that begin with a preset's numbers and are the person's from then on: what comes meanwhile takes nothing back. */
function Advanced(props: { preset: string; asked: Asked; set: (more: Asked) => void }) {
  const { preset, asked, set } = props;
  return (
    <details>
      <summary>{t.finetune.advanced}</summary>
      <div class="row form-row">
        {NUMBERS.map(([name, bounds]) => (
          <Field key={`${preset} ${name}`} label={t.finetune.numbers[name]}>
            <input
              type="number"
              {...bounds}
              defaultValue={asked[name]}
              onChange={(event) => set({ [name]: Number(event.currentTarget.value) })}
            />
          </Field>
        ))}
        {user.value?.role === "admin" && (
          <Field label={t.finetune.publish} hint={t.finetune.publishHint}>
            <input
              type="text"
              defaultValue={asked.publish ?? ""}
              onChange={({ currentTarget: { value } }) => set({ publish: value.trim() || undefined })}
            />
          </Field>
        )}
      </div>
    </details>
  );
}
