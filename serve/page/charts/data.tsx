import { Table } from "../app/parts.tsx";
import { t } from "../messages.screens.en.ts";
import { number } from "../render/format.ts";

export interface Series {
  name: string;
  values: readonly (number | null)[];
  /** Drawn over one another, from the sum below. */
  bars?: boolean;
  /** The edge of a band round the first series. */
  edge?: boolean;
  /** Has the colour of the model with its name. */
  model?: boolean;
}

/** Values by day, each series as long as `days`. */
export interface ChartData {
  title: string;
  unit: string;
  days: readonly string[];
  series: readonly Series[];
}

/** What a chart shows, in numbers. */
export const ChartTable = ({ chart: { title, days, series } }: { chart: ChartData }) => (
  <Table
    caption={title}
    head={[t.charts.day, ...series.map(({ name }) => name)]}
    rows={days.map((day, i) => [day, ...series.map(({ values }) => number(values[i]))])}
  />
);
