import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { environmentVariable } from "../../core/platform/environment.ts";
import type { Blobs } from "./blobs.ts";
import { type OpenStore, type StoreOptions, storeError } from "./store.ts";

export type { Blobs } from "./blobs.ts";
export { newId } from "./ids.ts";
export { indexMessages, searchMessages, words } from "./search.ts";
export type { OpenStore, Store, StoreOptions, Value } from "./store.ts";

/** The folder that holds a server's data: `KILN_DATA_DIR`, or `kiln-data` where the process runs. */
export const dataFolder = (): string => environmentVariable("KILN_DATA_DIR") || "kiln-data";

/** Where the store is: `DATABASE_URL`, or a SQLite file in the data folder. */
export const storeAddress = (): string =>
  environmentVariable("DATABASE_URL") || `sqlite:${join(dataFolder(), "kiln.db")}`;

/**
 * Opens a store and brings its schema up to date, after a backup. `address`: `sqlite:PATH`, or `postgres://…` (with `?schema=` for
 * another schema than `kiln`).
 */
export async function openStore(
  address: string = storeAddress(),
  options: StoreOptions = {},
): Promise<OpenStore> {
  const store = await openStoreAsIs(address, options);
  try {
    const folder = address.startsWith("sqlite:") ? dirname(store.name) : dataFolder();
    await store.migrate({ backupFolder: join(folder, "backups") });
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** The same without touching the schema, for copies and checks. `existing`: throws where there is no file yet. */
export async function openStoreAsIs(
  address: string,
  { existing = false, ...options }: StoreOptions & { existing?: boolean } = {},
): Promise<OpenStore> {
  if (/^postgres(ql)?:\/\//.test(address))
    return (await import("./postgres.ts")).openPostgres(address, options);
  if (/^sqlite:./.test(address)) {
    const path = address.slice("sqlite:".length);
    if (existing && !existsSync(path))
      throw storeError("missing", `there is no store at ${path}: KILN_DATA_DIR or DATABASE_URL name one`);
    return (await import("./sqlite.ts")).openSqlite(path, options);
  }
  const shown = address.replace(/\/\/[^@/]*@/, "//…@");
  throw storeError(
    "address",
    `${shown} is no address of a store: write sqlite:PATH or postgres://USER@HOST/NAME`,
  );
}

/** Where the blobs are: `KILN_BLOBS`, or the folder `blobs` of the data folder. */
const blobsAddress = (): string => environmentVariable("KILN_BLOBS") || `fs:${join(dataFolder(), "blobs")}`;

/** Opens blobs: `fs:FOLDER`, or `s3://BUCKET/PREFIX?endpoint=…&region=…&path_style=1` (blobs_s3.ts). */
export async function openBlobs(address: string = blobsAddress()): Promise<Blobs> {
  if (/^fs:./.test(address)) return new (await import("./blobs_files.ts")).FileBlobs(address.slice(3));
  if (address.startsWith("s3://")) return (await import("./blobs_s3.ts")).openS3Blobs(address);
  throw storeError("address", `${address} is no address of blobs: write fs:FOLDER or s3://BUCKET/PREFIX`);
}
