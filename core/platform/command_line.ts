import { Command as Commander, CommanderError, InvalidArgumentError, Option } from "commander";
import type { KilnError } from "../errors.ts";
import { environmentVariable } from "./environment.ts";
import { say } from "./say.ts";

export { say };

// What every room's commands share: parsers of option values, and how a command ends.

/** Parsers of option values. What they let pass is what the command can use, so that a bad value costs no loading. */
export const whole =
  (low: number, high = Number.MAX_SAFE_INTEGER) =>
  (text: string) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isSafeInteger(value) && value >= low && value <= high) return value;
    const range = high === Number.MAX_SAFE_INTEGER ? `, ${low} or more` : ` from ${low} to ${high}`;
    throw new InvalidArgumentError(`expected a whole number${range}.`);
  };
export const decimal =
  (expected = "a number", holds: (value: number) => boolean = () => true) =>
  (text: string) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && holds(value)) return value;
    throw new InvalidArgumentError(`expected ${expected}.`);
  };
/** Bytes, in the units of Hugging Face's libraries: powers of 1000. */
export const byteCount = (text: string) => {
  const [, digits, unit] = /^(\d+)([KMGT]?)B$/i.exec(text.trim()) ?? [];
  const bytes = Number(digits) * 1000 ** " KMGT".indexOf(unit?.toUpperCase() || " ");
  if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes;
  throw new InvalidArgumentError("expected a number of bytes such as 5GB, 200MB or 4096B.");
};
export const nonEmpty = (text: string) => {
  if (text !== "") return text;
  throw new InvalidArgumentError("expected a text that is not empty.");
};
export const port = whole(0, 65535);
/** Past 2^53 a number would be rounded. */
export const seedNumber = (text: string) => (/^\d{16,}$/.test(text) ? BigInt(text) : whole(0)(text));
/** An option that may be given several times. */
export const listOf =
  (expected: string, pattern: RegExp) =>
  (value: string, before: string[] = []) => {
    if (!pattern.test(value)) throw new InvalidArgumentError(`expected ${expected}.`);
    return [...before, value];
  };

/** A command of kiln's, and those below it. */
export class Command extends Commander {
  declare readonly commands: readonly Command[];

  override createCommand(name?: string): Command {
    return new Command(name);
  }

  /** Lines below its --help. */
  examples(...lines: string[]): this {
    return this.addHelpText("after", `\nExamples:\n${lines.map((line) => `  ${line}`).join("\n")}\n`);
  }

  /** An option that takes one of some values, by default `standard`. */
  choice(flags: string, description: string, values: readonly string[], standard?: string): this {
    return this.addOption(new Option(flags, description).choices(values).default(standard));
  }
}

/**
 * Does work that the first Ctrl-C (or SIGTERM) ends in order, by its signal, after saying `line`; the second ends the
 * process at once.
 */
export async function untilInterrupted<T>(
  line: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(130);
    say(line);
    controller.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

/**
 * Parses the command line and runs one command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C with
 * the work saved.
 */
export async function runCommand(program: Command): Promise<void> {
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exit(error.exitCode === 0 ? 0 : 2);
    }
    const { message, stack, exitCode } = error as KilnError;
    say(`kiln: ${Number(environmentVariable("DEBUG")) >= 1 ? stack : message}`);
    process.exitCode = exitCode ?? 1;
  }
  if (process.exitCode) await deviceIdle();
  // The driver's threads and pending timers must not keep a finished command alive.
  process.exit();
}

/** After an error the device may still be at work; an exit under its threads can end the process by a signal. */
async function deviceIdle(): Promise<void> {
  const { setDevice } = await import("../device.ts");
  const idle = setDevice(null)
    ?.sync()
    .catch(() => {}); // whatever it says now, the command has said why it ended
  await Promise.race([idle, new Promise((resolve) => setTimeout(resolve, 2000))]);
}
