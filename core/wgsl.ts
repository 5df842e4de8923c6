import type { ParamValue } from "./op.ts";

/**
 * The preprocessor of `.wgsl` files. Each directive has a line of its own:
 *
 *     #import "include/reduce.wgsl"       the file's text, once
 *     #if NAME / #if !NAME / #if NAME == 4 / #else / #endif
 *     #unroll I 4 … #end                  the lines between, once for I = 0, 1, 2, 3 (the word I is replaced, and $I at
 *                                         the end of a name or number: param$I becomes param0)
 *
 * Defines: a number becomes `const NAME = value;` at the top and can be used in `#if` and as the count of an
 * `#unroll`; a boolean is for `#if` alone; a string replaces the word NAME in the text.
 * The result, in full, is the key of the pipeline cache.
 */
export type Defines = Record<string, number | boolean | string>;

/** Reads a file below `kernels/`; Node reads the disk, a browser bundle hands in a table. */
export type SourceReader = (path: string) => string;

export function preprocess(path: string, defines: Defines, read: SourceReader): string {
  const seen = new Set<string>();
  const body = expandFile(path, defines, read, seen);
  const constants: string[] = [];
  const words = new Map<string, string>();
  for (const [name, value] of Object.entries(defines)) {
    if (typeof value === "number") constants.push(`const ${name} = ${value};`);
    if (typeof value === "string") words.set(name, value);
  }
  let text = [...constants, ...body].join("\n");
  // Substituted text may itself hold defined words (an expression that uses T): two rounds are enough.
  for (let round = 0; round < 2 && words.size > 0; round++) {
    const pattern = new RegExp(`\\b(${[...words.keys()].join("|")})\\b`, "g");
    text = text.replace(pattern, (word) => words.get(word)!);
  }
  return text;
}

function expandFile(path: string, defines: Defines, read: SourceReader, seen: Set<string>): string[] {
  if (seen.has(path)) return [];
  seen.add(path);
  return expandLines(read(path).split("\n"), path, defines, (file) => expandFile(file, defines, read, seen));
}

function expandLines(
  lines: string[],
  path: string,
  defines: Defines,
  importFile: (file: string) => string[],
): string[] {
  const out: string[] = [];
  const active: boolean[] = [];
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const [directive, argument] = splitDirective(line);
    if (directive === "#if") active.push(evaluate(argument, defines, `${path}:${i + 1}`));
    else if (directive === "#else") active.push(!active.pop()!);
    else if (directive === "#endif") active.pop();
    else if (active.includes(false)) continue;
    else if (directive === "#import") out.push(...importFile(argument.replaceAll('"', "")));
    else if (directive === "#unroll") {
      const end = matchingEnd(lines, i, path);
      out.push(...unroll(lines.slice(i + 1, end), argument, path, defines, importFile));
      i = end;
    } else if (directive) throw new Error(`${path}:${i + 1}: unknown directive ${directive}`);
    else out.push(line);
  }
  return out;
}

function unroll(
  lines: string[],
  argument: string,
  path: string,
  defines: Defines,
  importFile: (file: string) => string[],
): string[] {
  const [name, countText] = argument.split(/\s+/) as [string, string];
  const count = Number(defines[countText] ?? countText);
  if (!Number.isInteger(count)) throw new Error(`${path}: #unroll ${argument}: the count is not a number`);
  const word = new RegExp(`\\$${name}\\b|\\b${name}\\b`, "g");
  return Array.from({ length: count }, (_, k) =>
    expandLines(
      lines.map((line) => line.replace(word, String(k))),
      path,
      defines,
      importFile,
    ),
  ).flat();
}

function matchingEnd(lines: string[], start: number, path: string): number {
  let depth = 0;
  for (let i = start; i < lines.length; i++) {
    const [directive] = splitDirective(lines[i]);
    if (directive === "#unroll") depth++;
    if (directive === "#end" && --depth === 0) return i;
  }
  throw new Error(`${path}:${start + 1}: #unroll without #end`);
}

function splitDirective(line: string): [string, string] {
  const match = /^\s*(#\w+)\s*(.*?)\s*$/.exec(line);
  return match ? [match[1], match[2].replace(/\s*\/\/.*$/, "")] : ["", ""];
}

function evaluate(condition: string, defines: Defines, where: string): boolean {
  const match = /^(!?)(\w+)(?:\s*(==|!=)\s*(\w+))?$/.exec(condition);
  if (!match) throw new Error(`${where}: cannot read condition "${condition}"`);
  const [, not, name, operator, operand] = match;
  const value = defines[name!] ?? false;
  if (!operator) return not ? !value : Boolean(value);
  const equal = String(value) === String(defines[operand!] ?? operand);
  return operator === "==" ? equal : !equal;
}

/** A storage or uniform binding that the source declares. */
export interface Binding {
  index: number;
  kind: "uniform" | "storage" | "read-only-storage";
}

/** The bindings of preprocessed source, by index. */
export function findBindings(source: string): Binding[] {
  const pattern =
    /@group\(0\)\s*@binding\((\d+)\)\s*var<\s*(uniform|storage)\s*(?:,\s*(read_write|read))?\s*>/g;
  return [...source.matchAll(pattern)]
    .map(([, index, space, access]): Binding => {
      const storage = access === "read_write" ? "storage" : "read-only-storage";
      return { index: Number(index), kind: space === "uniform" ? "uniform" : storage };
    })
    .sort((a, b) => a.index - b.index);
}

/** A member of `struct Params`: where its 4-byte words go. */
interface ParamField {
  name: string;
  float: boolean;
  offset: number;
  words: number;
}

/** The layout of `struct Params` in 4-byte words: u32, i32, f32, vec4 of them and arrays of vec4. */
export function paramLayout(source: string): { fields: ParamField[]; words: number } {
  const body = /struct\s+Params\s*\{([^}]*)\}/.exec(source)?.[1]?.replace(/\/\/[^\n]*/g, "") ?? "";
  const fields: ParamField[] = [];
  let offset = 0;
  for (const [, name, type] of body.matchAll(/(\w+)\s*:\s*((?:array<[^>]*>\s*,\s*\d+\s*>|vec4<\w+>|\w+))/g)) {
    const count = Number(/,\s*(\d+)\s*>$/.exec(type!)?.[1] ?? 1);
    const wide = type!.includes("vec4");
    if (wide) offset = Math.ceil(offset / 4) * 4;
    const words = (wide ? 4 : 1) * count;
    fields.push({ name: name!, float: type!.includes("f32"), offset, words });
    offset += words;
  }
  return { fields, words: Math.ceil(offset / 4) * 4 };
}

/** Writes parameter values into the words of a uniform slot; a missing or unknown member is an error. */
export function packParams(
  layout: ReturnType<typeof paramLayout>,
  params: Record<string, ParamValue>,
  target: DataView,
  base: number,
): void {
  const known = Object.keys(params).length;
  if (known !== layout.fields.length) {
    const names = layout.fields.map((f) => f.name).join(", ");
    throw new Error(`the kernel takes params {${names}}, the call gives {${Object.keys(params).join(", ")}}`);
  }
  for (const field of layout.fields) {
    const value = params[field.name];
    if (value === undefined) throw new Error(`the kernel's param ${field.name} is missing`);
    for (let w = 0; w < field.words; w++) {
      const word = typeof value === "number" ? value : (value[w] ?? 0);
      const at = base + (field.offset + w) * 4;
      if (field.float) target.setFloat32(at, word, true);
      else target.setInt32(at, word, true);
    }
  }
}

/** Packed values by name, for people. */
export function showParams({ fields }: ReturnType<typeof paramLayout>, packed: Uint8Array): string {
  const view = new DataView(packed.buffer, packed.byteOffset);
  const word = (f: ParamField, w: number) =>
    f.float ? view.getFloat32((f.offset + w) * 4, true) : view.getInt32((f.offset + w) * 4, true);
  const values = (f: ParamField) => Array.from({ length: f.words }, (_, w) => word(f, w));
  return fields.map((f) => `${f.name}=${values(f)}`).join(" ");
}
