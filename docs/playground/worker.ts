import { describe, KilnError, openDevice, type WebGpuDevice } from "kiln";
import { infoOf, readCorpus } from "./corpus.ts";
import { openModel, zipModel } from "./files.ts";
import { measureKernels } from "./kernels.ts";
import type { Asked, CallName, Calls, Events, RunState, Told, WhichModel } from "./protocol.ts";
import { type Plan, Run } from "./run.ts";
import { forget, keep, kept } from "./storage.ts";
import { Writer } from "./writer.ts";

// The worker: device, run and models live here, so that the page never waits for them.

/** Milliseconds of training between two times that the run is kept. */
const keepEvery = 10_000;

let device: WebGpuDevice;
let run: Run | null = null;
/** Whether training shall go on, and whether what is written shall. */
const wanted = { training: false, writing: false };
const writers: Record<WhichModel, Writer | null> = { run: null, opened: null };

const post = (told: Told, transfer: Transferable[] = []) => self.postMessage(told, { transfer });
const tell = <N extends keyof Events>(event: N, data: Events[N]) => post({ event, data } as Told);
const say = (line: string) => tell("busy", line);

/** Work on the device, one after the other: a text is written by weights that do not change meanwhile. */
let last: Promise<unknown> = Promise.resolve();
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = last.then(work);
  last = done.catch(() => {});
  return done;
}

async function keepRun(plan?: Plan): Promise<void> {
  try {
    const snapshot = await run!.snapshot();
    await keep(snapshot, plan);
    tell("kept", { step: snapshot.step });
  } catch (error) {
    const why = error instanceof KilnError ? error.message : `${error}`;
    const problem = `this browser does not keep the run (${why}): export the model before you leave the page.`;
    tell("kept", { step: null, problem });
  }
}

function needRun(): Run {
  if (run) return run;
  throw new KilnError("there is no run yet: start one first.");
}

function become(next: Run | null): void {
  writers.run?.close();
  run?.model.dispose();
  run = next;
  writers.run = next && new Writer(next.model, next.tokenizer);
}

async function trainOn(): Promise<RunState> {
  const training = needRun();
  wanted.training = true;
  say("compiling the kernels");
  await inTurn(() => training.prepare());
  say("");
  let keptAt = performance.now();
  try {
    while (wanted.training && !training.done && run === training) {
      tell("step", await inTurn(() => training.step()));
      if (performance.now() - keptAt < keepEvery) continue;
      await inTurn(() => keepRun());
      keptAt = performance.now();
    }
  } finally {
    wanted.training = false;
  }
  if (run === training) await inTurn(() => keepRun());
  return training.state(false);
}

const calls: { [N in CallName]: (...args: Parameters<Calls[N]>) => Promise<ReturnType<Calls[N]>> } = {
  async open() {
    device = await openDevice();
    const { software } = device.description;
    try {
      const found = await kept();
      if (found) become(await Run.resume(found.plan, found.snapshot, say));
    } catch (error) {
      const problem = `the run in this browser's storage cannot be opened (${(error as Error).message}): a new one takes its place.`;
      tell("kept", { step: null, problem });
    }
    say("");
    return { adapter: describe(device.description), software, run: run?.state(false) ?? null };
  },
  read: async (files) => infoOf(await readCorpus(files)),
  async start(settings, files) {
    wanted.training = false;
    const corpus = await readCorpus(files);
    return inTurn(async () => {
      const next = await Run.start(settings, corpus, device, say);
      become(next);
      await keepRun(next.plan);
      say("");
      return next.state(false);
    });
  },
  train: trainOn,
  async stop() {
    wanted.training = false;
  },
  async forget() {
    wanted.training = false;
    await inTurn(async () => {
      become(null);
      await forget();
    });
  },
  async write(which, turns, options) {
    wanted.writing = true;
    return inTurn(async () => {
      const writer = writers[which];
      if (!writer) throw new KilnError("there is no model yet: train one, or open a model's folder.");
      let text = "";
      for await (const piece of writer.text(turns, options, () => !wanted.writing)) {
        text += piece;
        if (piece !== "") tell("said", piece);
      }
      return text;
    });
  },
  async hush() {
    wanted.writing = false;
  },
  async openFiles(files) {
    const bytes = new Map<string, Uint8Array>();
    for (const file of files)
      if (/\.(json|safetensors|jinja)$/.test(file.name))
        bytes.set(file.name, new Uint8Array(await file.arrayBuffer()));
    return inTurn(async () => {
      const known = run && { config: run.model.toHfConfig(), tokenizer: run.tokenizer };
      const opened = openModel({ files: bytes, known, maxBindingBytes: device.profile.maxBindingBytes });
      writers.opened?.close();
      writers.opened?.model.dispose();
      const writer = new Writer(opened.model, opened.tokenizer);
      writers.opened = writer;
      const { context, model } = writer;
      const chats = opened.tokenizer.chatTemplate !== null;
      const weights = files.find(({ name }) => name.endsWith(".safetensors"))!;
      const folder = weights.webkitRelativePath.split("/").at(-2);
      return { name: folder ?? weights.name, parameters: model.numParameters, context, chats };
    });
  },
  exportRun: () => inTurn(() => zipModel(needRun().model, needRun().tokenizer)),
  kernels: () => inTurn(() => measureKernels(needRun(), device)),
};

self.onmessage = async ({ data }: MessageEvent<Asked>) => {
  const { id, name, args } = data;
  try {
    const call = calls[name] as (...given: unknown[]) => Promise<unknown>;
    const value = await call(...args);
    post({ id, value }, value instanceof Uint8Array ? [value.buffer] : []);
  } catch (error) {
    say("");
    // What is no message for people keeps its stack for the console.
    if (!(error instanceof KilnError)) console.error(error);
    post({ id, error: (error as Error).message.split("\n")[0] });
  }
};
