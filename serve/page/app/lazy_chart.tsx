import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type ChartData, ChartTable } from "../charts/data.tsx";
import { t } from "../messages.en.ts";

/** The library, fetched when the first chart is shown; `failed`: it could not be. */
let loaded: ComponentType<{ chart: ChartData }> | "failed" | null = null;

/** A chart, its frame while the library loads, or its table where there is no library. */
export function LazyChart({ chart }: { chart: ChartData }) {
  const [, ready] = useState(loaded !== null);
  useEffect(() => {
    if (loaded !== null && loaded !== "failed") return;
    import("../charts/chart.tsx").then(
      (module) => {
        loaded = module.Chart;
        ready(true);
      },
      () => {
        loaded = "failed";
        ready(true);
      },
    );
  }, []);
  if (loaded === null) return <div class="chart-frame" role="status" aria-label={t.app.loading} />;
  if (loaded === "failed")
    return (
      <figure class="chart">
        <figcaption class="row">
          <h2>{chart.title}</h2>
          <small>{chart.unit}</small>
        </figcaption>
        <ChartTable chart={chart} />
      </figure>
    );
  const Chart = loaded;
  return <Chart chart={chart} />;
}
