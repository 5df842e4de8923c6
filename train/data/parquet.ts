import { open, stat } from "node:fs/promises";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import type { AsyncBuffer, Compressors, FileMetaData } from "hyparquet";
import { KilnError } from "../../core/errors.ts";
import { isObject, readError } from "../../core/platform/files.ts";
import { unpackedBytes } from "./files.ts";

/** A Parquet file whose footer was read. */
export interface ParquetTable {
  columns: string[];
  /** The rows of the named columns, a row group at a time in memory. */
  rows(columns: readonly string[]): AsyncGenerator<Record<string, unknown>>;
}

/**
 * Opens a Parquet file (also one inside gzip, which is then unpacked in memory). Numbers of a column that Hugging Face's
 * `datasets` wrote as ClassLabel become the names of their labels, and -1 becomes null.
 * Errors (KilnError): a file that cannot be read or is damaged.
 */
export async function openParquet(file: string): Promise<ParquetTable> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("hyparquet");
  const compressors: Compressors = {
    GZIP: (bytes) => gunzipSync(bytes),
    BROTLI: (bytes) => brotliDecompressSync(bytes),
    ZSTD: (bytes) => zstd.decompress(bytes),
  };
  const zstd = await import("fzstd");
  const damaged = (cause: unknown) => {
    if (cause instanceof KilnError) return cause;
    const reason = (cause as Error).message.split("\n")[0];
    return new KilnError(`${file} cannot be read as Parquet: ${reason}`, { code: "table_invalid", cause });
  };
  const buffer = await bufferOf(file);
  const metadata = await parquetMetadataAsync(buffer).catch((error) => {
    throw damaged(error);
  });
  const names = classLabels(metadata);
  const columns = parquetSchema(metadata).children.map(({ element }) => element.name);
  async function* rows(wanted: readonly string[]) {
    let rowStart = 0;
    for (const { num_rows } of metadata.row_groups) {
      const rowEnd = rowStart + Number(num_rows);
      const options = { file: buffer, metadata, columns: [...wanted], rowStart, rowEnd, compressors };
      const group = await parquetReadObjects(options).catch((error) => {
        throw damaged(error);
      });
      for (const row of group) {
        for (const [column, labels] of names) {
          if (row[column] !== undefined && row[column] !== null)
            row[column] = labels[Number(row[column])] ?? null;
        }
        yield row as Record<string, unknown>;
      }
      rowStart = rowEnd;
    }
  }
  return { columns, rows };
}

/** The bytes of a file on demand. */
async function bufferOf(file: string): Promise<AsyncBuffer> {
  const { size } = await stat(file).catch((error) => {
    throw readError(file, error);
  });
  const slice = async (start: number, end = size) => {
    const handle = await open(file);
    try {
      const bytes = new Uint8Array(end - start);
      await handle.read(bytes, 0, bytes.length, start);
      return bytes.buffer;
    } finally {
      await handle.close();
    }
  };
  const [a, b] = new Uint8Array(await slice(0, Math.min(2, size)));
  if (a !== 0x1f || b !== 0x8b) return { byteLength: size, slice };
  const chunks: Uint8Array[] = [];
  for await (const chunk of unpackedBytes(file)) chunks.push(chunk);
  const { buffer, byteOffset, byteLength } = Buffer.concat(chunks);
  const all = buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer;
  return { byteLength, slice: (start, end) => all.slice(start, end) };
}

/** The names of labels by column, as `datasets` stores them beside the schema. */
function classLabels({ key_value_metadata = [] }: FileMetaData): Map<string, string[]> {
  const text = key_value_metadata.find(({ key }) => key === "huggingface")?.value;
  const found = new Map<string, string[]>();
  let content: { info?: { features?: Record<string, unknown> } } = {};
  try {
    content = JSON.parse(text ?? "{}");
  } catch {
    // Damaged notes of another program: the numbers stay numbers.
  }
  for (const [column, feature] of Object.entries(content.info?.features ?? {})) {
    if (isObject(feature) && feature._type === "ClassLabel" && Array.isArray(feature.names))
      found.set(column, feature.names as string[]);
  }
  return found;
}
