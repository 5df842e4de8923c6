import { z } from "zod";
import { readJson } from "../../core/platform/files.ts";
import { parseWith } from "../formats/validation.ts";

const sha256 = z.string().regex(/^[\da-f]{64}$/);
const nullable = <T extends z.ZodType>(schema: T) => schema.nullable().default(null);

/** What a model takes and gives, for those who must put one in another's place. */
const signature = z.object({
  /** In the words of transformers' pipelines. */
  task: z.string(),
  input: z.enum(["text", "messages"]),
  /** `text`, `vector`, `numbers`, or the names of its labels. */
  output: z.union([z.string(), z.array(z.string())]),
  /** Tokens of the longest text, or prompt plus answer; null of an adapter, which has its base's. */
  max_model_len: nullable(z.int().min(1)),
  tokenizer_sha256: nullable(sha256),
  chat_template_sha256: nullable(sha256),
});

/** What kind of thing a version holds. */
export const kinds = ["base", "adapter", "classifier", "encoder", "gguf"] as const;

/** What is known of a model before it has a place in the registry. */
const facts = z.object({
  kind: z.enum(kinds),
  /** The versions that it was made from, as `name@3`. */
  parents: z.array(z.string()).default([]),
  /** Of an adapter, the model that it is for: `name@3`, or another's name of it. */
  base: nullable(z.string()),
  /** Of what it learned from. */
  data_sha256: nullable(z.string()),
  /** The settings that it was trained with. */
  config: nullable(z.record(z.string(), z.unknown())),
  metrics: nullable(z.record(z.string(), z.number().nullable())),
  signature,
  note: z.string().default(""),
});

const manifest = facts.extend({
  name: z.string(),
  version: z.int().min(1),
  /** Of the list of files: a line `sha256  path` each, by path. */
  content_sha256: sha256,
  files: z.array(z.object({ path: z.string(), bytes: z.int().min(0), sha256 })),
  /** ISO 8601, UTC. */
  created_at: z.iso.datetime(),
  /** Of kiln. */
  code_version: z.string(),
});

export type Kind = (typeof kinds)[number];
export type Signature = z.output<typeof signature>;
export type Facts = z.output<typeof facts>;
export type Manifest = z.output<typeof manifest>;
export type RegisteredFile = Manifest["files"][number];

/** Reads the manifest.json of a version. @throws KilnError that names the file where it is missing or damaged. */
export async function readManifest(path: string): Promise<Manifest> {
  return parseWith(manifest, await readJson(path), () => path);
}
