import type { Client } from "./client.ts";
import { attempt, byId, make } from "./dom.ts";
import type { KernelRow, RunState } from "./protocol.ts";

/** The view that shows what a training step is made of. */
export class KernelsTab {
  constructor(client: Client) {
    const button = byId<HTMLButtonElement>("measure");
    button.onclick = () =>
      attempt(async () => {
        button.disabled = true;
        byId("total").textContent = "Measuring …";
        try {
          this.#show(await client.call("kernels"));
        } catch (error) {
          byId("total").textContent = "";
          throw error;
        } finally {
          button.disabled = false;
        }
      });
  }

  become(run: RunState | null): void {
    byId<HTMLButtonElement>("measure").disabled = run === null;
    byId("total").textContent = run ? "" : "Start a run first.";
    if (!run) byId("list").replaceChildren();
  }

  #show(rows: readonly KernelRow[]): void {
    const ms = rows.reduce((sum, row) => sum + row.ms, 0);
    const calls = rows.reduce((sum, row) => sum + row.calls, 0);
    byId("total").textContent =
      `${rows.length} kernels, ${calls} calls, ${ms.toFixed(1)} ms of a step (browsers round times).`;
    byId("list").replaceChildren(...rows.map(kernel));
  }
}

function kernel({ label, file, source, calls, ms, share }: KernelRow): HTMLElement {
  const percent = 100 * share;
  const bar = make("meter", { max: 100, value: percent, title: `${percent.toFixed(1)} % of the step` });
  const summary = make(
    "summary",
    {},
    make("code", {}, label),
    make("span", {}, `${calls} ×`),
    make("span", {}, `${ms.toFixed(2)} ms`),
    make("span", {}, `${percent.toFixed(1)} %`),
    bar,
  );
  const details = make("details", {}, summary);
  // A step has some thirty kernels of a few hundred lines: those that nobody opens are not laid out.
  details.addEventListener(
    "toggle",
    () => details.append(make("p", {}, `kernels/${file}`), make("pre", { tabIndex: 0 }, source)),
    { once: true },
  );
  return make("li", {}, details);
}
