import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { KilnError } from "../../core/errors.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { type HostTensor, parseSafetensors, toFloat32, toInt32 } from "../../models/formats/safetensors.ts";

/** A folder of reference numbers or one of its subfolders. */
export interface Folder {
  path: string;
  /** Path from the fixture's root with slashes, empty for the root itself. */
  name: string;
  files: string[];
}

/** The folder and all below it, parents first, in alphabetical order. Throws KilnError when it cannot be read. */
export function walk(path: string, name = ""): Folder[] {
  const entries = list(path).sort();
  const isFolder = (entry: string) => statSync(join(path, entry)).isDirectory();
  const files = entries.filter((entry) => !isFolder(entry));
  const below = entries
    .filter(isFolder)
    .flatMap((entry) => walk(join(path, entry), name ? `${name}/${entry}` : entry));
  return [{ path, name, files }, ...below];
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (cause) {
    throw new KilnError(`${path} is not a folder that can be read; give a folder of golden fixtures`, {
      code: "fixtures_missing",
      cause,
    });
  }
}

export function readJsonFile(folder: Folder, file: string): unknown {
  const path = join(folder.path, file);
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new KilnError(`${path} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}

/** Tensors of `stem.safetensors`, or of `stem.safetensors.gz` where there is no plain file. */
export class TensorFile {
  readonly #tensors: ReadonlyMap<string, HostTensor>;
  readonly #file: string;

  constructor(folder: Folder, stem: string) {
    const plain = `${stem}.safetensors`;
    const zipped = `${plain}.gz`;
    this.#file = folder.files.includes(plain) ? plain : zipped;
    if (!folder.files.includes(this.#file))
      throw new KilnError(`${join(folder.path, plain)} is missing (and so is ${basename(zipped)})`);
    const bytes = readFileSync(join(folder.path, this.#file));
    this.#tensors = parseSafetensors(this.#file === zipped ? gunzipSync(bytes) : bytes, this.#file);
  }

  names(): string[] {
    return [...this.#tensors.keys()];
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  get(name: string): HostTensor {
    const found = this.#tensors.get(name);
    if (!found) throw new KilnError(`${this.#file} has no tensor ${name}`);
    return found;
  }

  floats(name: string): Float32Array {
    return toFloat32(this.get(name));
  }

  integers(name: string): Int32Array {
    return toInt32(this.get(name));
  }

  isFloat(name: string): boolean {
    return this.get(name).dtype.includes("F");
  }

  /** On the current device: floats as f32, bytes (booleans in these files) as bool, other integers as i32. */
  upload(name: string): Tensor {
    const host = this.get(name);
    if (this.isFloat(name)) return tensor(toFloat32(host), host.shape, "f32");
    const dtype = host.dtype === "U8" || host.dtype === "BOOL" ? "bool" : "i32";
    return tensor(toInt32(host), host.shape, dtype);
  }
}
