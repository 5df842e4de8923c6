import { type Command, nonEmpty, say } from "../../core/platform/command_line.ts";

const number = (value: number) => value.toLocaleString("en");

/** `kiln store` and `kiln backup`. Everything is imported when it is needed: `--help` is instant. */
export function addStoreCommands(program: Command): void {
  const store = program.command("store").description("move and check what a server keeps");
  store
    .command("copy")
    .argument("<from>", "sqlite:PATH, postgres://…, fs:FOLDER or s3://…", nonEmpty)
    .argument("<to>", "an empty store of either kind, or a place for blobs", nonEmpty)
    .description("copy a store, or its blobs, and compare every table or blob at the end")
    .examples(
      "kiln store copy sqlite:kiln-data/kiln.db postgres://kiln@localhost/kiln",
      "kiln store copy postgres://kiln@localhost/kiln sqlite:copy.db",
      'kiln store copy fs:kiln-data/blobs "s3://bucket/kiln?region=eu-central-1"',
    )
    .action(copy);
  store
    .command("check")
    .argument("[address]", "a store or blobs (default: DATABASE_URL, or kiln.db in KILN_DATA_DIR)", nonEmpty)
    .description("look for damage: what a store holds, and what is wrong with it")
    .examples("kiln store check", "kiln store check fs:kiln-data/blobs")
    .action(check);
  program
    .command("backup")
    .argument("<file>", "a new file", nonEmpty)
    .description("write what the server keeps to a SQLite file, while it runs")
    .examples(
      "kiln backup kiln-2026-12-01.db",
      "kiln store copy sqlite:kiln-2026-12-01.db sqlite:kiln-data/kiln.db",
    )
    .addHelpText(
      "after",
      "The second puts a backup back, into a store that is empty. Blobs are files of their own: kiln store copy copies them.\n",
    )
    .action(backup);
}

const isBlobs = (address: string) => /^(fs:|s3:)/.test(address);

async function copy(from: string, to: string): Promise<void> {
  const { copyBlobs, copyStore } = await import("./copy.ts");
  const { usageError } = await import("../../core/errors.ts");
  if (isBlobs(from) !== isBlobs(to))
    throw usageError("a store is copied to a store, and blobs to blobs: name two of a kind");
  if (isBlobs(from)) {
    const { openBlobs } = await import("./index.ts");
    const { blobs, bytes } = await copyBlobs(await openBlobs(from), await openBlobs(to));
    say(`copied and compared ${number(blobs)} blobs of ${number(bytes)} bytes`);
    return;
  }
  const { openStoreAsIs } = await import("./index.ts");
  const source = await openStoreAsIs(from, { existing: true });
  try {
    const target = await openStoreAsIs(to);
    try {
      const copied = await copyStore(source, target, ({ table, rows, sha256 }) => {
        say(`${table.padEnd(14)}${number(rows).padStart(12)} rows  ${sha256.slice(0, 16)}`);
      });
      const rows = copied.reduce((sum, table) => sum + table.rows, 0);
      say(`copied and compared ${number(rows)} rows of ${copied.length} tables`);
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

async function check(given?: string): Promise<void> {
  const { openStoreAsIs, storeAddress } = await import("./index.ts");
  const address = given ?? storeAddress();
  let problems: string[];
  if (isBlobs(address)) {
    const { openBlobs } = await import("./index.ts");
    const { damagedBlobs } = await import("./copy.ts");
    problems = (await damagedBlobs(await openBlobs(address))).map(
      (key) => `${key} holds other bytes than its name says`,
    );
  } else {
    const { checkStore } = await import("./check.ts");
    const store = await openStoreAsIs(address, { existing: true });
    try {
      const found = await checkStore(store);
      problems = found.problems;
      for (const { table, rows } of found.tables) say(`${table.padEnd(14)}${number(rows).padStart(12)} rows`);
    } finally {
      await store.close();
    }
  }
  for (const problem of problems) process.stdout.write(`${problem}\n`);
  say(
    problems.length === 0
      ? "nothing is wrong"
      : `${problems.length} problems; restore a backup, or report them`,
  );
  if (problems.length > 0) process.exitCode = 1;
}

async function backup(file: string): Promise<void> {
  const { openStoreAsIs, storeAddress } = await import("./index.ts");
  const store = await openStoreAsIs(storeAddress(), { existing: true });
  try {
    await store.backup(file);
    process.stdout.write(`${file}\n`);
  } finally {
    await store.close();
  }
}
