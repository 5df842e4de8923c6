import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { isMap, isNode, LineCounter, parse, parseDocument } from "yaml";
import type { z } from "zod";
import { KilnError, usageError } from "../../core/errors.ts";
import { isObject, readText } from "../../core/platform/files.ts";
import { configError, type Option, optionsOf, parseWith, shapeOf } from "../../models/formats/validation.ts";
import { resolveModel } from "../../models/hub/resolve.ts";
import type { RunSettings } from "./run.ts";

/** How settings are read: from a file, `--set`, flags and a run that is resumed, checked by a recipe's schema. */

/** What reading the settings of a recipe needs of it. */
export interface SettingsOf<C> {
  /** `kiln train NAME`. */
  name: string;
  schema: z.ZodType<C>;
  /** Settings that name inputs, as dotted paths: they become absolute. */
  inputs: readonly string[];
}

/** One value given outside the file. `from` is what messages call it, e.g. `--set train.steps=5`. */
export interface Override {
  path: string[];
  value: unknown;
  from: string;
}

/** Settings that have moved: older config files, runs and checkpoints use the name before the dot. */
const moved = /^train\.(weight_decay|betas|eps)$/;

/** The name of a setting today. */
export function currentName(name: string): string {
  return name.replace(moved, "train.optimizer.$1");
}

/** Reads the arguments of `--set`: `a.b=value`, the value in YAML. Throws a KilnError for one without `=`. */
export function parseOverrides(settings: readonly string[]): Override[] {
  return settings.map((text) => {
    const equals = text.indexOf("=");
    if (equals < 1) {
      throw usageError(`--set ${text}: expected name=value, for example --set train.steps=500`);
    }
    const path = currentName(text.slice(0, equals).trim()).split(".");
    try {
      return { path, value: parse(text.slice(equals + 1)), from: `--set ${text}` };
    } catch {
      throw usageError(`--set ${text}: the value is not valid YAML; put it in quotes`);
    }
  });
}

/** Settings as read from a file, and the line of the file that a path is on. */
interface Source {
  value: unknown;
  name: string;
  line(path: readonly PropertyKey[]): number | null;
}

/** Parses YAML or JSON (a subset of it). Throws a one-line KilnError with the line of a syntax error. */
export function parseSource(text: string, name: string): Source {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const problem = document.errors[0];
  if (problem !== undefined) {
    const reason = problem.message.split("\n")[0];
    throw configError(`${name}:${lines.linePos(problem.pos[0]).line}: ${reason}`);
  }
  const line = (today: readonly PropertyKey[]): number | null => {
    const old = ["train", ...today.slice(2)];
    const path =
      currentName(old.slice(0, 2).join(".")) === today.slice(0, 3).join(".") && document.hasIn(old)
        ? old
        : today;
    // The nearest enclosing value that the file has: a missing key is reported where its group is.
    for (let length = path.length; length > 0; length--) {
      const group = document.getIn(path.slice(0, length - 1), true) ?? document.contents;
      const pair = isMap(group) ? group.items.find(({ key }) => String(key) === path[length - 1]) : undefined;
      const node = pair?.key ?? document.getIn(path.slice(0, length), true);
      if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
    }
    return null;
  };
  return { value: withCurrentNames(document.toJS() ?? {}), name, line };
}

/** The settings of a file under the names of today. */
function withCurrentNames(value: unknown): unknown {
  if (!isObject(value) || !isObject(value.train)) return value;
  const isMoved = (key: string) => moved.test(`train.${key}`);
  const entries = Object.entries(value.train);
  const old = entries.filter(([key]) => isMoved(key));
  if (old.length === 0) return value;
  const rest = Object.fromEntries(entries.filter(([key]) => !isMoved(key)));
  const optimizer = isObject(rest.optimizer) ? rest.optimizer : {};
  return { ...value, train: { ...rest, optimizer: { ...Object.fromEntries(old), ...optimizer } } };
}

/** Sets `value` at `path`, making the groups on the way. */
function assign(target: Record<string, unknown>, { path, value, from }: Override): void {
  let group = target;
  for (const key of path.slice(0, -1)) {
    const inner = Object.hasOwn(group, key) ? group[key] : undefined;
    if (inner !== undefined && !isObject(inner)) {
      throw configError(`${from}: ${key} is not a group of keys`);
    }
    const next = { ...inner };
    define(group, key, next);
    group = next;
  }
  define(group, path.at(-1)!, value);
}

/** An own property whatever the key: plain assignment to "__proto__" would change the prototype instead. */
function define(group: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(group, key, { value, enumerable: true, writable: true, configurable: true });
}

function startsWith(path: readonly PropertyKey[], prefix: readonly PropertyKey[]): boolean {
  return prefix.every((key, i) => path[i] === key);
}

/** Settings as someone gave them, without defaults. */
type Given = Record<string, unknown>;

/**
 * Checks the text of a config file (YAML or JSON) with later values over it. The first problem is thrown as a one-line
 * KilnError that names the file and line, or the flag, that it came from. A null counts as absent. Relative inputs start
 * from the file's folder, inputs in overrides from the current folder. `below` are settings that hold where neither says
 * anything.
 */
export function parseSettings<C>(
  { schema, inputs }: SettingsOf<C>,
  text: string,
  name: string,
  overrides: readonly Override[] = [],
  below: Given = {},
): C {
  const source = parseSource(text, name);
  const merged = merge(below, override(source, overrides));
  const overrideOf = (path: readonly PropertyKey[]) => overrides.findLast((o) => startsWith(path, o.path));
  const config = parseWith(schema, merged, (path) => {
    const line = source.line(path);
    const inside = path.length > 0 && line === null ? overrides.find((o) => startsWith(o.path, path)) : null;
    const override = overrideOf(path) ?? inside;
    return override?.from ?? (line === null ? name : `${name}:${line}`);
  });
  for (const input of inputs) {
    const path = input.split(".");
    const key = path.at(-1)!;
    const group = path.slice(0, -1).reduce<unknown>((inner, part) => (inner as Given)[part], config) as Given;
    const absolute = (to: string) => resolve(overrideOf(path) ? "." : dirname(name), to);
    const value = group[key] as string | string[] | undefined;
    if (value) group[key] = Array.isArray(value) ? value.map(absolute) : absolute(value);
  }
  return config;
}

/** What a file says, with the overrides in it. */
function override(source: Source, overrides: readonly Override[]): Given {
  if (!isObject(source.value)) {
    throw configError(`${source.name}: expected keys like "train:" with values under them`);
  }
  const given = structuredClone(source.value);
  for (const override of overrides) assign(given, override);
  return given;
}

/**
 * `above` over `below`, group by group; a null takes the value below away. A group whose `name` differs describes another
 * thing (another optimizer): nothing of the one below applies to it.
 */
function merge(below: Given, above: Given): Given {
  const out = { ...below };
  for (const [key, value] of Object.entries(above)) {
    const under = Object.hasOwn(out, key) ? out[key] : undefined;
    if (value === null) delete out[key];
    else if (!isObject(value)) define(out, key, value);
    else define(out, key, merge(isObject(under) && isSame(under, value) ? under : {}, value));
  }
  return out;
}

function isSame(below: Given, above: Given): boolean {
  return below.name === undefined || above.name === undefined || below.name === above.name;
}

/**
 * Reads a config file, or only defaults where `path` is null, with overrides on top. With `resume` the settings are those
 * of the run in `out_dir`, and overrides are changes of them; the file may say something else about what does not decide
 * numbers (eval, sample, checkpoint), everything else must agree. Throws a one-line KilnError otherwise.
 */
export async function loadSettings<C extends RunSettings>(
  recipe: SettingsOf<C>,
  path: string | null,
  given: readonly Override[] = [],
): Promise<C> {
  const [text, name] = path === null ? ["{}", "the settings"] : [await readText(path), path];
  const source = parseSource(text, name);
  const overrides = await withPulledModel(source, given);
  const { resume, out_dir = `runs/${recipe.name}` } = override(source, overrides);
  const runFile = join(String(out_dir), "config.json");
  if (!resume || !existsSync(runFile)) {
    if (resume && path === null && existsSync(join(String(out_dir), "checkpoints"))) {
      throw new KilnError(
        `${runFile} is missing, and with it the settings of the run; put it back, or name the config file that the run started with`,
        { code: "file_missing" },
      );
    }
    return parseSettings(recipe, text, name, overrides);
  }
  const run = knownIn(recipe.schema, parseSource(await readText(runFile), runFile).value as Given);
  const { eval: evaluation, sample, checkpoint } = override(source, []);
  const free = JSON.stringify({ eval: evaluation, sample, checkpoint, out_dir, resume });
  const config = parseSettings(recipe, free, name, overrides, run);
  const originOf = (settings: Given) => (settings.model as Given | undefined)?.init_from;
  const origin = originOf(config as Given);
  if (origin !== originOf(run)) {
    throw new KilnError(
      `the run in ${out_dir} did not start from ${origin}; leave --init-from out to go on with it, or give another --out`,
      { code: "settings_differ" },
    );
  }
  const [has, asked] = [config, parseSettings(recipe, text, name, overrides, run)].map(
    (all) => new Map(leaves(all).map(({ path, value }) => [path.join("."), JSON.stringify(value)])),
  ) as [Map<string, string>, Map<string, string>];
  const differing = [...new Set([...asked.keys(), ...has.keys()])].filter((k) => asked.get(k) !== has.get(k));
  if (differing.length > 0) {
    const says = (values: Map<string, string>, key: string) => values.get(key) ?? "null";
    const list = differing.map((key) => `${key} ${says(asked, key)} (the run: ${says(has, key)})`);
    throw new KilnError(
      `${name} differs from the run in ${out_dir}: ${list.join(", ")}; leave the file out to go on as before, ` +
        `or name each change, e.g. --set ${differing[0]}=${says(asked, differing[0])}`,
      { code: "settings_differ" },
    );
  }
  return config;
}

/**
 * The overrides, and above them the folder of a pulled model where `model.init_from` is its name (org/name). Throws a KilnError
 * where it is neither that nor a path.
 */
async function withPulledModel(source: Source, overrides: readonly Override[]): Promise<readonly Override[]> {
  const { model } = override(source, overrides);
  const given = isObject(model) ? model.init_from : null;
  if (typeof given !== "string") return overrides;
  const path = ["model", "init_from"];
  const own = overrides.findLast((o) => startsWith(path, o.path));
  if (existsSync(resolve(own ? "." : dirname(source.name), given))) return overrides;
  const value = await resolveModel(given);
  return value === given ? overrides : [...overrides, { path, value, from: own?.from ?? source.name }];
}

/** The part of `value` that the schema knows: a run of an older version may have settings that no longer exist. */
function knownIn(schema: z.ZodType, value: Given): Given {
  const shape = shapeOf(schema, value);
  if (shape === undefined) return value;
  const entries = Object.entries(value).filter(([key]) => Object.hasOwn(shape, key));
  return Object.fromEntries(
    entries.map(([key, inner]) => [key, isObject(inner) ? knownIn(shape[key], inner) : inner]),
  );
}

/** Every value inside groups of keys, with its path. */
export function leaves(value: object, prefix: string[] = []): { path: string[]; value: unknown }[] {
  return Object.entries(value).flatMap(([key, inner]) => {
    const path = [...prefix, key];
    if (isObject(inner)) return leaves(inner, path);
    return inner === undefined ? [] : [{ path, value: inner }];
  });
}

/** One setting as the help shows it; `default` is JSON, or empty where the setting has none. */
export interface Setting {
  name: string;
  default: string;
  description: string;
}

/** All settings in schema order, groups before their keys; a key of one of several alternatives is described with its name. */
export function describeSettings(schema: z.ZodType, prefix = ""): Setting[] {
  const options = optionsOf(schema);
  if (options) return options.flatMap((option) => describeOption(option, prefix));
  return Object.entries(shapeOf(schema) ?? {}).flatMap(([key, field]) => {
    const inner = describeSettings(field, `${prefix}${key}.`);
    return [describe(`${prefix}${key}`, field, inner.length > 0), ...inner];
  });
}

function describe(name: string, field: z.ZodType, hasKeys: boolean): Setting {
  const value = hasKeys ? undefined : field.safeParse(undefined).data;
  return { name, default: JSON.stringify(value) ?? "", description: field.description ?? "" };
}

/** One choice of `name`, and the settings that come with it. */
function describeOption(option: Option, prefix: string): Setting[] {
  const { name: literal, ...fields } = option.shape;
  const [name] = (literal as unknown as { values: Set<string> }).values;
  const choice = { name: `${prefix}name=${name}`, default: "", description: option.description ?? "" };
  return [choice, ...Object.entries(fields).map(([key, field]) => describe(`${prefix}${key}`, field, false))];
}
