import { useMemo, useState } from "preact/hooks";
import type { Analytics as Report } from "../../app/protocol.ts";
import type { ChartData } from "../charts/data.tsx";
import { t } from "../messages.screens.en.ts";
import { number, percent } from "../render/format.ts";
import { api } from "../state/api.ts";
import { Bars } from "./bars.tsx";
import { LazyChart } from "./lazy_chart.tsx";
import { FactsGrid, Field, Loaded, Options } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { useLoaded } from "./use_loaded.ts";

const dayBefore = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString().slice(0, 10);

/** Numbers about the use of the models, by day. */
export function Analytics() {
  const [from, setFrom] = useState(() => dayBefore(29));
  const [to, setTo] = useState(() => dayBefore(0));
  const [model, setModel] = useState("");
  const query = new URLSearchParams({ from, to, ...(model && { model }) });
  const { data, error, load } = useLoaded(
    () => api<Report>("GET", `/api/analytics?${query}`),
    [from, to, model],
  );
  return (
    <ScreenFrame title={t.screens.analytics}>
      <form class="row form-row" onSubmit={(event) => event.preventDefault()}>
        <Field label={t.analytics.from}>
          <input
            type="date"
            defaultValue={from}
            max={to}
            onChange={({ currentTarget: { value } }) => value && setFrom(value)}
          />
        </Field>
        <Field label={t.analytics.to}>
          <input
            type="date"
            defaultValue={to}
            min={from}
            onChange={({ currentTarget: { value } }) => value && setTo(value)}
          />
        </Field>
        <Field label={t.models.choose}>
          <select value={model} onChange={(event) => setModel(event.currentTarget.value)}>
            <option value="">{t.analytics.all}</option>
            <Options of={data?.models ?? []} />
          </select>
        </Field>
      </form>
      <Loaded data={data} error={error} retry={load}>
        {(report) =>
          report.totals.messages === 0 ? <p class="notice">{t.analytics.empty}</p> : <Numbers of={report} />
        }
      </Loaded>
    </ScreenFrame>
  );
}

function Numbers({ of }: { of: Report }) {
  const { totals } = of;
  const facts: [string, string][] = [
    [t.analytics.sessions, number(totals.sessions)],
    [t.analytics.users, number(totals.users)],
    [t.data.messages, number(totals.messages)],
    [t.analytics.answers, number(totals.answers)],
    [t.analytics.regenerated, percent(totals.regenerate_rate)],
    [t.analytics.stopped, percent(totals.stop_rate)],
    [t.analytics.coverage, percent(totals.coverage)],
  ];
  const charts = useMemo(() => chartsOf(of), [of]);
  return (
    <>
      <FactsGrid facts={facts} />
      <div class="chart-grid">
        {charts.map((chart) => (
          <LazyChart key={chart.title} chart={chart} />
        ))}
        <Bars
          title={t.analytics.quality}
          rows={of.quality.map(({ low, high, count }) => [t.data.range(number(low), number(high)), count])}
        />
        <Bars
          title={t.analytics.retention}
          rows={of.retention.map(({ days, users, returned }) => [t.analytics.after(days, users), returned])}
        />
      </div>
      {of.latency.some(({ exact }) => !exact) && <p class="note">{t.analytics.notExact}</p>}
    </>
  );
}

/** One line per day and series; a day without a value has a gap. */
function chartsOf({ messages, latency, thumbs, failures, usage }: Report): ChartData[] {
  const days = [...new Set(messages.map(({ day }) => day))].sort();
  const count = (day: string, model: string) =>
    messages.find((row) => row.day === day && row.model === model)?.count ?? 0;
  const columns = <Row extends { day: string }>(
    rows: readonly Row[],
    names: [keyof Row & string, string][],
  ) => ({
    days: rows.map(({ day }) => day),
    series: names.map(([key, name]) => ({ name, values: rows.map((row) => row[key] as number | null) })),
  });
  const share = (value: number) => value * 100;
  return [
    {
      title: t.analytics.perDay,
      unit: t.analytics.units.messages,
      days,
      series: [...new Set(messages.map(({ model }) => model))].map((name) => ({
        ...{ name, bars: true, model: true, values: days.map((day) => count(day, name)) },
      })),
    },
    {
      title: t.analytics.ttft,
      unit: t.analytics.units.ms,
      ...columns(latency, [
        ["ttft_p50_ms", t.analytics.p50],
        ["ttft_p95_ms", t.analytics.p95],
      ]),
    },
    {
      title: t.analytics.speed,
      unit: t.analytics.units.rate,
      ...columns(latency, [
        ["speed_p50", t.analytics.p50],
        ["speed_p95", t.analytics.p95],
      ]),
    },
    {
      title: t.analytics.thumbs,
      unit: t.analytics.units.share,
      days: thumbs.map(({ day }) => day),
      series: [
        { name: t.analytics.up, values: thumbs.map(({ rate }) => share(rate)) },
        { name: t.experiments.low, edge: true, values: thumbs.map(({ low }) => share(low)) },
        { name: t.experiments.high, edge: true, values: thumbs.map(({ high }) => share(high)) },
      ],
    },
    {
      title: t.analytics.failures,
      unit: t.analytics.units.answers,
      ...columns(failures, [
        ["errors", t.analytics.errors],
        ["fallbacks", t.analytics.fallbacks],
      ]),
    },
    {
      title: t.analytics.tokens,
      unit: t.analytics.units.tokens,
      ...columns(usage, [
        ["prompt_tokens", t.analytics.prompt],
        ["completion_tokens", t.analytics.completion],
      ]),
    },
    {
      title: t.analytics.cost,
      unit: t.analytics.units.cost,
      days: usage.map(({ day }) => day),
      series: [{ name: t.analytics.cost, values: usage.map(({ cost_microusd }) => cost_microusd / 1e6) }],
    },
  ];
}
