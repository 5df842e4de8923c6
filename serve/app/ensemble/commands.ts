import { type Command, nonEmpty, whole } from "../../../core/platform/command_line.ts";
import type { FitFlags } from "./fit_command.ts";

/** `kiln route`. Everything is imported when it is needed: `--help` is instant. */
export function addRouteCommands(program: Command): void {
  program
    .command("route")
    .description("routes among models, and classifiers that answer together")
    .command("fit")
    .argument("<name>", "a route, or classifiers, of the file", nonEmpty)
    .argument("[models...]", "the models of this machine that it names, each as NAME=MODEL")
    .description("fit a threshold or temperatures on texts whose answers are known, and check them on others")
    .requiredOption("--providers <file>", "YAML of providers, ensembles and routes", nonEmpty)
    .requiredOption(
      "--data <file>",
      "JSON lines: prompt and answer, or of classifiers text and label",
      nonEmpty,
    )
    .option("--max-tokens <n>", "tokens of an answer at most", whole(1), 128)
    .option("--json", "print the report as one JSON object")
    .examples(
      "kiln route fit auto demo=runs/demo/model --providers providers.yaml --data questions.jsonl",
      "kiln route fit spam a=runs/a/model b=runs/b/model --providers providers.yaml --data labelled.jsonl --json",
    )
    .action(async (name: string, models: string[], flags: FitFlags) =>
      (await import("./fit_command.ts")).fitCommand(name, models, flags),
    );
  program
    .command("quality")
    .description("how well the quality that is told of answers agrees with people's thumbs")
    .option("--json", "print it as one JSON object")
    .action(quality);
}

async function quality({ json }: { json?: boolean }): Promise<void> {
  const { openStore } = await import("../../store/index.ts");
  const { qualityReport } = await import("../quality_scores.ts");
  const store = await openStore();
  try {
    const report = await qualityReport(store);
    const { kind, ratings, auc, heuristic_auc } = report;
    const told = (value: number | null) =>
      value?.toFixed(4) ?? "not known: there are no answers of both kinds";
    const lines = [`${kind} weights, ${ratings} ratings`, `AUC            ${told(auc)}`];
    if (kind === "fitted") lines.push(`AUC, heuristic ${told(heuristic_auc)}`);
    process.stdout.write(json ? `${JSON.stringify(report)}\n` : `${lines.join("\n")}\n`);
  } finally {
    await store.close();
  }
}
