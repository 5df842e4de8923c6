import { type Command, decimal, nonEmpty } from "../../../core/platform/command_line.ts";
import type { Experiment, UsageReport } from "../protocol.ts";

const print = (line: string) => void process.stdout.write(`${line}\n`);
const json = (value: unknown) => print(JSON.stringify(value));

/** `kiln ab` and `kiln usage`, on the store that a server has. Everything is imported when it is needed: `--help` is instant. */
export function addExperimentCommands(program: Command): void {
  addExperiments(program);
  addUsage(program);
}

async function withExperiments<T>(
  work: (experiments: import("./experiments.ts").Experiments) => Promise<T>,
): Promise<T> {
  const { openStore } = await import("../../store/index.ts");
  const { Experiments } = await import("./experiments.ts");
  const store = await openStore();
  try {
    return await work(new Experiments(store));
  } finally {
    await store.close();
  }
}

interface JsonFlag {
  json?: boolean;
}
interface StartFlags extends JsonFlag {
  name?: string;
  split: number;
  unit: "user" | "conversation";
}

const percent = decimal("a percentage above 0 and below 100", (x) => x > 0 && x < 100);

function addExperiments(program: Command): void {
  const ab = program
    .command("ab")
    .description("experiments: two versions of a model under real use, and what may be said of them");
  ab.command("start")
    .argument("<control>", "what people ask for, as NAME or NAME@ALIAS", nonEmpty)
    .argument("<treatment>", "the version to try, as NAME@3", nonEmpty)
    .description("have a share of those who ask for a model answered by another version, in servers that run")
    .option("--name <name>", "of the experiment; default: both versions", nonEmpty)
    .option("--split <percent>", "share of the treatment", percent, 50)
    .choice("--unit <unit>", "what is always answered by the same arm", ["user", "conversation"], "user")
    .option("--json", "print the experiment as one JSON object")
    .examples("kiln ab start assistant@prod assistant@3 --split 50")
    .action(
      async (control: string, treatment: string, { split, name, json: asJson, ...flags }: StartFlags) => {
        const asked = { name: name ?? `${control} against ${treatment}`, control, treatment };
        const experiment = await withExperiments((all) =>
          all.start({ ...asked, ...flags, split: split / 100 }),
        );
        await show(experiment, asJson);
      },
    );
  const one = (verb: string, description: string) =>
    ab
      .command(verb)
      .argument("<experiment>", "its name or id", nonEmpty)
      .description(description)
      .option("--json", "print the experiment as one JSON object");
  ab.command("status")
    .argument("[experiment]", "its name or id; default: all", nonEmpty)
    .description("what is known of experiments up to now; the intervals hold however often one looks")
    .option("--json", "print a JSON array of experiments")
    .action(async (name: string | undefined, { json: asJson }: JsonFlag) => {
      const found = await withExperiments(async (all) =>
        name === undefined ? all.list() : [await all.get(name)],
      );
      if (asJson) return json(found);
      for (const experiment of found) await show(experiment);
    });
  one("stop", "end an experiment without a change").action(async (name: string, { json: asJson }: JsonFlag) =>
    show(await withExperiments((all) => all.stop(name)), asJson),
  );
  one("promote", "end an experiment: the control's alias stands for an arm from now on")
    .argument("<arm>", "NAME@3", nonEmpty)
    .action(async (name: string, arm: string, { json: asJson }: JsonFlag) =>
      show(await withExperiments((all) => all.promote(name, arm)), asJson),
    );
}

async function show(experiment: Experiment, asJson = false): Promise<void> {
  if (asJson) return json(experiment);
  const { name, state, arms, result, decision, alpha } = experiment;
  const { sentence } = await import("./report.ts");
  print(`${name}: ${state}; ${decision ?? sentence(result, alpha)}`);
  for (const { name: arm, weight, exposed, up, rated } of arms)
    print(`  ${arm.padEnd(24)} ${Math.round(weight * 100)}%  ${exposed} reached  ${up} of ${rated} up`);
}

function addUsage(program: Command): void {
  program
    .command("usage")
    .description("requests, tokens and costs of a server, by model, with exact sums")
    .option("--json", "print one JSON object with the rows of each day and user, and the sums")
    .action(async ({ json: asJson }: JsonFlag) => {
      const { openStoreAsIs, storeAddress } = await import("../../store/index.ts");
      const { usageReport } = await import("../usage.ts");
      const store = await openStoreAsIs(storeAddress(), { existing: true });
      try {
        const all = { from: 0, to: Number.MAX_SAFE_INTEGER, userId: null };
        const { rows } = await usageReport(store, all);
        const total = sumsOf(rows);
        if (asJson) return json({ rows, total });
        for (const model of [...new Set(rows.map((row) => row.model))].sort())
          print(line(model, sumsOf(rows.filter((row) => row.model === model))));
        print(line("in all", total));
      } finally {
        await store.close();
      }
    });
}

type Sums = Omit<UsageReport["rows"][number], "day" | "user_id" | "model">;

function sumsOf(rows: UsageReport["rows"], model?: string): Sums {
  const own = rows.filter((row) => model === undefined || row.model === model);
  const of = (name: keyof Sums) => own.reduce((sum, row) => sum + row[name], 0);
  return {
    ...{ requests: of("requests"), prompt_tokens: of("prompt_tokens") },
    ...{ completion_tokens: of("completion_tokens"), cost_microusd: of("cost_microusd") },
    ...{ unknown_price: of("unknown_price"), estimated: of("estimated") },
  };
}

const line = (name: string, sums: Sums) =>
  `${name.padEnd(24)} ${sums.requests} requests  ${sums.prompt_tokens} + ${sums.completion_tokens} tokens  $${(sums.cost_microusd / 1e6).toFixed(6)}  ${sums.unknown_price} of unknown price  ${sums.estimated} estimated`;
