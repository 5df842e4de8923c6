import { type Command, nonEmpty } from "../../../core/platform/command_line.ts";

/** `kiln provider`. Everything is imported when it is needed: `--help` is instant. */
export function addProviderCommands(program: Command): void {
  program
    .command("provider")
    .description("providers of models that are elsewhere")
    .command("test")
    .argument("<name>", "a provider of the file", nonEmpty)
    .description("say whether a provider can be reached, takes its key, has the models and answers")
    .requiredOption("--providers <file>", "YAML of providers: docs/providers.md", nonEmpty)
    .examples("kiln provider test cloud --providers providers.yaml")
    .action(test);
}

async function test(name: string, { providers: file }: { providers: string }): Promise<void> {
  const { keyOf, readProviders } = await import("./config.ts");
  const { usageError } = await import("../../../core/errors.ts");
  const { providers } = readProviders(file);
  const settings = providers[name];
  if (settings === undefined) {
    const names = Object.keys(providers).join(", ") || "none";
    throw usageError(`${file} has no provider ${name}: it has ${names}`);
  }
  const { Upstream } = await import("./upstream.ts");
  const { probe } = await import("./probe.ts");
  const upstream = new Upstream(name, settings, keyOf(name, settings));
  try {
    for await (const { what, ok, detail } of probe(upstream)) {
      const verdict = { true: "yes", false: "no", null: "-" }[`${ok}`];
      process.stdout.write(`${what.padEnd(20)} ${verdict.padEnd(4)} ${detail}\n`);
      if (ok === false) process.exitCode = 1;
    }
  } finally {
    upstream.close();
  }
}
