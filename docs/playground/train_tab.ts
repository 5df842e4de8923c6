import { drawLosses } from "./chart.ts";
import type { Client } from "./client.ts";
import { attempt, byId, complain, count, download, dropZone, make } from "./dom.ts";
import {
  contexts,
  type Opened,
  type RunState,
  type Settings,
  type SizeName,
  type StepReport,
  sizes,
} from "./protocol.ts";

/** The view in which a run is set up, trained and tried. */
export class TrainTab {
  readonly #client: Client;
  readonly #onRun: (run: RunState | null) => void;
  readonly #opened: () => Promise<Opened>;
  /** What to learn from; the built-in stories where there are none. */
  #files: readonly File[] = [];
  #run: RunState | null = null;
  /** Tokens a second, a mean that follows. */
  #speed = 0;
  #drawing = false;
  #sample: ((piece: string) => void) | null = null;

  /** `opened` opens a fresh worker's device. */
  constructor(client: Client, opened: () => Promise<Opened>, onRun: (run: RunState | null) => void) {
    this.#client = client;
    this.#opened = opened;
    this.#onRun = onRun;
    for (const [name, { hidden, layers }] of Object.entries(sizes))
      byId("size").append(make("option", { value: name }, `${name}: ${layers} layers of ${hidden}`));
    for (const context of contexts)
      byId("context").append(make("option", { value: String(context) }, `${context} tokens`));
    byId("size").onchange = () => this.#suggest(byId<HTMLSelectElement>("size").value as SizeName);
    byId("settings").onsubmit = (event) => {
      event.preventDefault();
      attempt(() => this.#go());
    };
    byId("export").onclick = () =>
      attempt(async () => download("kiln-model.zip", await client.call("exportRun")));
    byId("anew").onclick = () => attempt(() => this.#anew());
    byId("anew").onblur = () => this.#show();
    byId("stories").onclick = () => attempt(() => this.#learn([]));
    const texts = byId<HTMLInputElement>("texts");
    texts.onchange = () => attempt(() => this.#learn([...(texts.files ?? [])]));
    dropZone(byId("drop"), (files) => this.#run ?? attempt(() => this.#learn(files)));
    byId("try").onsubmit = (event) => {
      event.preventDefault();
      attempt(() => this.#try());
    };
    new ResizeObserver(() => this.#draw()).observe(byId("curve"));
  }

  /** Begins with what the worker found. */
  begin({ software, run }: Opened): void {
    this.#suggest(software ? "small" : "medium");
    this.#become(run);
    if (run && run.step > 0)
      this.#status(`A run of ${count(run.step)} steps is kept in this browser: go on when you like.`);
  }

  step({ step, loss, tokensPerSecond }: StepReport): void {
    if (!this.#run) return;
    this.#run.step = step;
    this.#run.losses.push(loss);
    this.#speed = this.#speed === 0 ? tokensPerSecond : 0.9 * this.#speed + 0.1 * tokensPerSecond;
    this.#draw();
  }

  said(piece: string): void {
    this.#sample?.(piece);
  }

  kept({ step, problem }: { step: number | null; problem?: string }): void {
    if (step === null) complain(problem);
    else this.#status(`Kept in this browser up to step ${count(step)}.`);
  }

  busy(line: string): void {
    if (line !== "") this.#status(`${line[0].toUpperCase()}${line.slice(1)} …`);
    else if (byId("status").textContent?.endsWith("…")) this.#status("");
  }

  #status(line: string): void {
    byId("status").textContent = line;
  }

  #suggest(size: SizeName): void {
    const { context, rate, steps } = sizes[size];
    byId<HTMLSelectElement>("size").value = size;
    byId<HTMLSelectElement>("context").value = String(context);
    byId<HTMLInputElement>("rate").value = String(rate);
    byId<HTMLInputElement>("steps").value = String(steps);
  }

  #settings(): Settings {
    return {
      size: byId<HTMLSelectElement>("size").value as SizeName,
      context: Number(byId<HTMLSelectElement>("context").value),
      learningRate: byId<HTMLInputElement>("rate").valueAsNumber,
      steps: byId<HTMLInputElement>("steps").valueAsNumber,
    };
  }

  /** Takes files to learn from, unless there is something wrong with them. */
  async #learn(files: readonly File[]): Promise<void> {
    const info = await this.#client.call("read", files);
    this.#files = files;
    const what = `It learns from ${info.name}: ${count(info.words)} words, ${count(info.characters)} characters.`;
    byId("corpus").textContent =
      files.length > 0 ? what : `${what} Drop text files here to teach it something else.`;
    byId("stories").hidden = files.length === 0;
  }

  async #go(): Promise<void> {
    if (this.#run?.training) return this.#client.call("stop");
    if (!this.#run) {
      byId<HTMLFieldSetElement>("choices").disabled = true;
      byId<HTMLButtonElement>("go").disabled = true;
      try {
        this.#become(await this.#client.call("start", this.#settings(), this.#files));
      } finally {
        byId<HTMLButtonElement>("go").disabled = false;
        this.#show();
      }
    }
    this.#run!.training = true;
    // The first step waits for its kernels: it says nothing of the others.
    this.#speed = 0;
    this.#show();
    try {
      const { losses, step } = await this.#client.call("train");
      Object.assign(this.#run!, { losses, step });
    } finally {
      this.#run!.training = false;
      this.#show();
    }
  }

  /** The first press asks, the second does it. */
  async #anew(): Promise<void> {
    const button = byId("anew");
    if (!button.classList.contains("sure")) {
      button.classList.add("sure");
      button.textContent = "Delete this run?";
      return;
    }
    await this.#client.call("forget");
    this.#client.restart();
    this.#status("");
    byId("sample").textContent = "";
    await this.#opened();
    this.#become(null);
  }

  async #try(): Promise<void> {
    const prompt = byId<HTMLInputElement>("prompt").value;
    const sample = byId("sample");
    sample.replaceChildren(make("b", {}, prompt));
    this.#sample = (piece) => sample.append(piece);
    const options = { maxTokens: 100, temperature: 0.8, seed: Date.now() % 2 ** 31 };
    try {
      await this.#client.call("write", "run", [{ role: "user", content: prompt }], options);
    } finally {
      this.#sample = null;
    }
  }

  #become(run: RunState | null): void {
    this.#run = run;
    this.#speed = 0;
    if (run === null) void this.#learn(this.#files).catch(complain);
    this.#onRun(run);
    this.#show();
    this.#draw();
  }

  #show(): void {
    const run = this.#run;
    const choices = byId<HTMLFieldSetElement>("choices");
    choices.disabled = run !== null;
    if (run) {
      const { size, context, learningRate, steps } = run.settings;
      this.#suggest(size);
      byId<HTMLSelectElement>("context").value = String(context);
      byId<HTMLInputElement>("rate").value = String(learningRate);
      byId<HTMLInputElement>("steps").value = String(steps);
      byId("corpus").textContent = `It learns from ${run.corpus}.`;
      byId("stories").hidden = true;
    }
    const go = byId<HTMLButtonElement>("go");
    const isDone = run !== null && run.step >= run.settings.steps;
    go.textContent = run?.training ? "Stop" : isDone ? "Trained" : run && run.step > 0 ? "Go on" : "Train";
    go.disabled = isDone && !run.training;
    const anew = byId("anew");
    anew.classList.remove("sure");
    anew.textContent = "New run";
    anew.hidden = byId("export").hidden = run === null || run.training;
    byId<HTMLButtonElement>("try").querySelector("button")!.disabled = run === null;
  }

  /** At most once a frame. */
  #draw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const run = this.#run;
      const losses = run?.losses ?? [];
      drawLosses(
        document.querySelector<SVGSVGElement>("#curve")!,
        losses,
        run?.settings.steps ?? this.#settings().steps,
      );
      byId("numbers").replaceChildren(...(run ? numbersOf(run, this.#speed) : []));
    });
  }
}

/** The numbers of a run, as terms and what they are. */
function numbersOf({ settings, step, losses, parameters, vocabulary }: RunState, speed: number): Node[] {
  const recent = losses.slice(-20);
  const loss = recent.reduce((sum, value) => sum + value, 0) / recent.length;
  const rows: [string, string][] = [
    ["step", `${count(step)} of ${count(settings.steps)}`],
    ["loss", recent.length > 0 ? loss.toFixed(3) : "none yet"],
    ...(speed > 0 ? [["tokens/s", count(Math.round(speed))] as [string, string]] : []),
    ["parameters", count(parameters)],
    ["vocabulary", count(vocabulary)],
  ];
  return rows.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value)));
}
