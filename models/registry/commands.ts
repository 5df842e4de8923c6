import { definedOnly } from "../../core/defined_only.ts";
import { KilnError, usageError } from "../../core/errors.ts";
import { type Command, nonEmpty, say } from "../../core/platform/command_line.ts";
import type { RegisteredVersion } from "./registry.ts";

interface JsonFlag {
  json?: boolean;
}

const open = async () => new (await import("./registry.ts")).Registry();
const print = (value: unknown) => void process.stdout.write(`${JSON.stringify(value)}\n`);
const table = (rows: readonly (readonly string[])[]) => {
  const widths = rows[0]?.map((_, i) => Math.max(...rows.map((row) => row[i].length))) ?? [];
  for (const row of rows)
    process.stdout.write(
      `${row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join("  ")
        .trimEnd()}\n`,
    );
};
const version = "NAME@3, NAME@ALIAS, or NAME: its alias prod, else its newest version";

/** `kiln model …`. Everything is imported when it is needed: `--help` is instant. */
export function addRegistryCommands(program: Command): void {
  const model = program
    .command("model")
    .description("keep versions of models in a registry, and names for them such as prod")
    .examples("kiln model add assistant runs/chat", "kiln serve assistant")
    .addHelpText("after", "\nKILN_REGISTRY is the registry's folder (default kiln-data/registry)\n");
  addAdd(model);
  addList(model);
  addShow(model);
  addAlias(model);
  addDiff(model);
  addVerify(model);
  addRemove(model);
  addCollect(model);
}

function addAdd(model: Command): void {
  model
    .command("add")
    .argument("<name>", "letters, digits, dots, underscores and hyphens")
    .argument("<model>", "model folder, adapter folder, finished run, GGUF file, or org/name after kiln pull")
    .description("copy a model to the registry as the next version of a name, with what its run knows of it")
    .option("--base <model>", "the model that an adapter is for; default: the one that it names", nonEmpty)
    .option("--note <text>", "a line about it", nonEmpty)
    .option("--json", "print the version as one JSON object")
    .examples(
      "kiln model add assistant runs/chat",
      'kiln model add assistant runs/chat/model --base base@prod --note "learning rate halved"',
      "kiln model add assistant model.gguf --json",
    )
    .action(async (name: string, given: string, flags: JsonFlag & { base?: string; note?: string }) => {
      const { resolveModel } = await import("../hub/resolve.ts");
      const { addModel } = await import("./describe.ts");
      const { base, note, json } = flags;
      const added = await addModel(name, await resolveModel(given), definedOnly({ base, note }));
      if (json) return print(added);
      say(`${summary(added)}\nnext: kiln model alias ${name} prod ${added.version}`);
      process.stdout.write(`${name}@${added.version}\n`);
    });
}

const size = (bytes: number) =>
  bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
const bytesOf = ({ files }: RegisteredVersion) => files.reduce((sum, { bytes }) => sum + bytes, 0);

function summary(found: RegisteredVersion): string {
  const { name, version, kind, base, signature, parents } = found;
  const from = base ? ` of ${base}` : parents.length > 0 ? ` from ${parents.join(", ")}` : "";
  return `${name}@${version}: ${kind}${from}, ${signature.task}, ${size(bytesOf(found))}`;
}

function addList(model: Command): void {
  model
    .command("list")
    .argument("[name]", "one model; default: all")
    .description("the models, their versions and aliases")
    .option("--json", "print a JSON array of versions")
    .examples("kiln model list", "kiln model list assistant --json")
    .action(async (name: string | undefined, { json }: JsonFlag) => {
      const registry = await open();
      // A name that does not exist is refused by `find`.
      if (name !== undefined) await registry.find(name);
      const models = name === undefined ? await registry.list() : [await registry.model(name)];
      const rows: (RegisteredVersion & { aliases: string[] })[] = [];
      for (const { name, versions, aliases } of models)
        for (const version of versions) {
          const own = Object.keys(aliases).filter((alias) => aliases[alias] === version);
          rows.push({ ...(await registry.find(`${name}@${version}`)), aliases: own });
        }
      if (json) return print(rows);
      if (rows.length === 0) return say(`no models yet in ${registry.folder}: kiln model add NAME FOLDER`);
      table([
        ["VERSION", "ALIASES", "KIND", "TASK", "SIZE", "ADDED", "NOTE"],
        ...rows.map((row) => [
          `${row.name}@${row.version}`,
          row.aliases.join(","),
          ...[row.kind, row.signature.task, size(bytesOf(row)), row.created_at.slice(0, 16), row.note],
        ]),
      ]);
    });
}

function addShow(model: Command): void {
  model
    .command("show")
    .argument("<version>", version)
    .description("all that is known of a version, as JSON")
    .examples("kiln model show assistant@prod")
    .action(async (reference: string) => {
      const registry = await open();
      const found = await registry.find(reference);
      const referrers = await registry.referrers(found.name, found.version);
      process.stdout.write(`${JSON.stringify({ ...found, referred_to_by: referrers }, null, 2)}\n`);
    });
}

function addAlias(model: Command): void {
  model
    .command("alias")
    .argument("<name>", "of the model")
    .argument("<alias>", "such as prod, which the name alone stands for")
    .argument("[version]", "its number, or another alias; none takes the alias away")
    .description("let an alias stand for a version, also in servers that run: they switch without a pause")
    .option("--json", "print the change as one JSON object")
    .examples("kiln model alias assistant prod 3", "kiln model alias assistant canary")
    .action(async (name: string, alias: string, to: string | undefined, { json }: JsonFlag) => {
      const registry = await open();
      const after = to === undefined ? null : (await registry.find(`${name}@${to}`)).version;
      const before = await registry.alias(name, alias, after);
      if (json) return print({ name, alias, before, after });
      const was = before === null ? "" : ` (before: ${name}@${before})`;
      say(
        after === null
          ? `${name}@${alias} stands for none${was}`
          : `${name}@${alias} stands for ${name}@${after}${was}`,
      );
    });
}

function addDiff(model: Command): void {
  model
    .command("diff")
    .argument("<a>", version)
    .argument("<b>", "the same")
    .description("what differs between two versions: settings, metrics, data, signature, files")
    .option("--json", "print a JSON array of differences")
    .examples("kiln model diff assistant@2 assistant@prod")
    .action(async (a: string, b: string, { json }: JsonFlag) => {
      const registry = await open();
      const { diffVersions } = await import("./diff.ts");
      const [from, to] = [await registry.find(a), await registry.find(b)];
      const differences = diffVersions(from, to);
      if (json) return print(differences);
      const shown = (value: unknown) => (value === undefined ? "-" : JSON.stringify(value).slice(0, 60));
      const head = [from, to].map(({ name, version }) => `${name}@${version}`);
      if (differences.length === 0) return say(`${head.join(" and ")} are the same`);
      table([["", ...head], ...differences.map(({ name, a, b }) => [name, shown(a), shown(b)])]);
    });
}

function addVerify(model: Command): void {
  model
    .command("verify")
    .argument("[version]", `${version}; default: all`)
    .description(
      "read every file of a version and compare it with what was added; status 1 where one differs",
    )
    .option("--json", "print a JSON array of versions with what is wrong with them")
    .examples("kiln model verify", "kiln model verify assistant@3")
    .action(async (reference: string | undefined, { json }: JsonFlag) => {
      const registry = await open();
      const all = reference === undefined ? await registry.list() : [];
      const found = reference === undefined ? null : await registry.find(reference);
      const versions = found
        ? [`${found.name}@${found.version}`]
        : all.flatMap(({ name, versions }) => versions.map((number) => `${name}@${number}`));
      const results: { version: string; problems: string[] }[] = [];
      for (const each of versions) results.push({ version: each, problems: await registry.verify(each) });
      if (json) print(results);
      else
        for (const { version, problems } of results) say(`${version}: ${problems.join("; ") || "as added"}`);
      const damaged = results.filter(({ problems }) => problems.length > 0).map(({ version }) => version);
      if (damaged.length > 0)
        throw new KilnError(`damaged: ${damaged.join(", ")}; add them again from where they came`, {
          code: "version_damaged",
        });
    });
}

function addRemove(model: Command): void {
  model
    .command("rm")
    .argument("<version>", "NAME@3")
    .description("delete a version that nothing refers to; its number is not given again")
    .examples("kiln model rm assistant@2")
    .action(async (reference: string) => {
      const number = Number(/^[^@]+@(\d+)$/.exec(reference)?.[1]);
      if (!number) throw usageError(`give the number of the version to delete, as NAME@3`);
      const registry = await open();
      const { name } = await registry.find(reference);
      await registry.remove(name, number);
      say(`deleted ${name}@${number}`);
    });
}

function addCollect(model: Command): void {
  model
    .command("gc")
    .description("free what killed processes left in the registry")
    .option("--json", "print the result as one JSON object")
    .examples("kiln model gc")
    .action(async ({ json }: JsonFlag) => {
      const freed = await (await open()).collect();
      if (json) return print({ freed });
      say(`freed ${size(freed)}`);
    });
}
