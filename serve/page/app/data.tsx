import { useState } from "preact/hooks";
import type { DataStatistics, PreviewBody, PreviewResult } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { number, percent } from "../render/format.ts";
import { api } from "../state/api.ts";
import { Bars } from "./bars.tsx";
import { FactsGrid, Failure, Field, Form, Loaded, Options, Table } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { useLoaded } from "./use_loaded.ts";

/** Conversations as training data: what there is, what cleaning would do to it, and files of it. */
export function Data() {
  const { data, error, load } = useLoaded(() => api<DataStatistics>("GET", "/api/data/statistics"));
  return (
    <ScreenFrame title={t.screens.data}>
      <Loaded data={data} error={error} retry={load}>
        {(statistics) =>
          statistics.total_conversations === 0 ? (
            <div class="notice">
              <p>{t.data.empty}</p>
            </div>
          ) : (
            <>
              <Statistics of={statistics} />
              <Preview />
              <Export />
            </>
          )
        }
      </Loaded>
    </ScreenFrame>
  );
}

function Statistics({ of }: { of: DataStatistics }) {
  const { ratings, turns, duplicates } = of;
  const facts: [string, string][] = [
    [t.data.conversations, number(of.total_conversations)],
    [t.data.messages, number(of.total_messages)],
    [t.data.turns, t.data.spread(number(turns.mean), number(turns.p95), number(turns.max))],
    [t.data.sessions, number(of.sessions)],
    [t.data.ratings, t.data.thumbs(ratings.up, ratings.down)],
    [t.data.rate, t.data.interval(percent(ratings.rate), percent(ratings.low), percent(ratings.high))],
    [t.data.duplicates, t.data.exactAndNear(duplicates.exact, duplicates.near)],
    [t.data.variety, percent(of.type_token_ratio)],
  ];
  return (
    <section>
      <h2>{t.data.statistics}</h2>
      <FactsGrid facts={facts} />
      <div class="side-by-side">
        <Bars
          title={t.data.lengths}
          rows={of.lengths.map(({ low, high, count }): [string, number] => [
            t.data.range(number(low), number(high)),
            count,
          ])}
        />
        <Bars title={t.data.languages} rows={Object.entries(of.languages)} />
        <Bars title={t.data.models} rows={Object.entries(of.models)} />
      </div>
    </section>
  );
}

function Preview() {
  const [rules, setRules] = useState<NonNullable<PreviewBody["rules"]>>({});
  const [result, setResult] = useState<PreviewResult | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  async function run() {
    setBusy(true);
    setError(null);
    await api<PreviewResult>("POST", "/api/data/preview", { rules, sample: 50 } satisfies PreviewBody).then(
      setResult,
      (problem: Error) => setError(problem.message),
    );
    setBusy(false);
  }
  return (
    <section>
      <h2>{t.data.cleaning}</h2>
      <Form class="row form-row" submit={run}>
        <Choice
          label={t.data.personal}
          names={t.data.personalModes}
          choose={(personal) => setRules({ ...rules, personal })}
        />
        <Choice
          label={t.data.near}
          names={t.data.nearModes}
          choose={(near_duplicates) => setRules({ ...rules, near_duplicates })}
        />
        <Field label={t.data.shortest}>
          <input
            type="number"
            min={0}
            placeholder="10"
            onInput={({ currentTarget: { value } }) => {
              const { min_chars: _, ...rest } = rules;
              setRules(value === "" ? rest : { ...rest, min_chars: Number(value) });
            }}
          />
        </Field>
        <button type="submit" disabled={busy}>
          {t.data.preview}
        </button>
      </Form>
      {busy && <div class="skeleton" role="status" aria-label={t.app.loading} />}
      <Failure of={error} />
      {result && !busy && <Cleaned result={result} />}
    </section>
  );
}

function Choice<Name extends string>(props: {
  label: string;
  names: Record<Name, string>;
  choose: (name: Name) => void;
}) {
  return (
    <Field label={props.label}>
      <select onChange={(event) => props.choose(event.currentTarget.value as Name)}>
        <Options of={props.names} />
      </select>
    </Field>
  );
}

function Cleaned({
  result: { total, kept, dropped, changed, dropped_rows, duplicates },
}: {
  result: PreviewResult;
}) {
  const reason = (name: string) => t.data.reasons[name as keyof typeof t.data.reasons] ?? name;
  return (
    <>
      <p role="status">{t.data.keptOf(kept, total, total - kept)}</p>
      <Bars
        title={t.data.dropped}
        rows={Object.entries(dropped).map(([name, count]) => [reason(name), count])}
      />
      {changed.length > 0 && (
        <Titled
          caption={t.data.changed}
          head={[...t.data.changedColumns]}
          rows={changed.map(({ before, after, changes }) => [
            <q>{before}</q>,
            <q>{after}</q>,
            changes.join(", "),
          ])}
        />
      )}
      {dropped_rows.length > 0 && (
        <Titled
          caption={t.data.droppedRows}
          head={[...t.data.droppedColumns]}
          rows={dropped_rows.map((row) => [<q>{row.text}</q>, reason(row.reason), row.detail])}
        />
      )}
      {duplicates.length > 0 && (
        <Titled
          caption={t.data.nearPairs}
          head={[...t.data.nearColumns]}
          rows={duplicates.map((pair) => [
            <q>{pair.kept.text}</q>,
            <q>{pair.dropped.text}</q>,
            percent(pair.similarity),
          ])}
        />
      )}
    </>
  );
}

/** A table under a heading of its own. */
const Titled = (props: Parameters<typeof Table>[0]) => (
  <div>
    <h3>{props.caption}</h3>
    <Table {...props} />
  </div>
);

const Export = () => (
  <section>
    <h2>{t.data.export}</h2>
    <p class="note">{t.data.exportHow}</p>
    <div class="row">
      {Object.entries(t.data.formats).map(([format, name]) => (
        <a key={format} class="button" download href={`/api/data/export?format=${format}`}>
          {name}
        </a>
      ))}
    </div>
  </section>
);
