import { t } from "../messages.screens.en.ts";
import { number } from "../render/format.ts";

/** Counts as bars, each with its number: the table is the chart. */
export function Bars({ title, rows }: { title: string; rows: [string, number][] }) {
  const most = Math.max(1, ...rows.map(([, count]) => count));
  return (
    <figure class="count-bars">
      <figcaption>{title}</figcaption>
      {rows.length === 0 ? (
        <p class="note">{t.charts.nothing}</p>
      ) : (
        <ul>
          {rows.map(([name, count]) => (
            <li key={name}>
              <span class="clip">{name}</span>
              <span class="bar-track" aria-hidden="true">
                <span style={{ width: `${(100 * count) / most}%` }} />
              </span>
              <b>{number(count)}</b>
            </li>
          ))}
        </ul>
      )}
    </figure>
  );
}
