import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const script = fileURLToPath(new URL("store_writer.ts", import.meta.url));

/** A running tests/support/store_writer.ts: what it said was kept, and how long each took in milliseconds. */
export class Writer {
  readonly kept: string[] = [];
  readonly took: number[] = [];
  error: string | null = null;
  readonly ended: Promise<void>;
  readonly #child: ChildProcess;
  #open: () => void = () => {};
  readonly opened = new Promise<void>((resolve) => {
    this.#open = resolve;
  });

  constructor(
    args: readonly (string | number)[],
    { command = [] as string[], uid }: { command?: string[]; uid?: number } = {},
  ) {
    const all = [...command, process.execPath, "--import", "tsx", script, ...args.map(String)];
    this.#child = spawn(all[0]!, all.slice(1), {
      ...(uid !== undefined && { uid, gid: uid }),
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let rest = "";
    this.#child.stdout!.on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!; // of a killed process: half a line, which it did not finish to say
      for (const line of lines) this.#line(line);
    });
    this.ended = once(this.#child, "close").then(() => this.#open());
  }

  #line(line: string): void {
    const [id, ms] = line.split(" ") as [string, string];
    if (line === "open") this.#open();
    else if (id === "error") this.error = line.slice(6);
    else {
      this.kept.push(id);
      this.took.push(Number(ms));
    }
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.ended;
  }
}
