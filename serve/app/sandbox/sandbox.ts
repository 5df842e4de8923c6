import { KilnError, nearestName } from "../../../core/errors.ts";
import {
  type Contained,
  type ContainedOptions,
  type ContainedResult,
  type Language,
  openContained,
  type Tier,
  throwIfStopped,
} from "../../../core/platform/contained.ts";
import { firstLine } from "../../../core/platform/files.ts";
import type { CodeBlock } from "./code_blocks.ts";

/** What a program may take; the time is from its first line. */
const limits = { seconds: 3, memoryBytes: 2 ** 27, outputBytes: 64_000, endFlood: true };

const languages: Record<string, Language | "typescript"> = {
  ...{ javascript: "javascript", js: "javascript", jsx: "javascript", mjs: "javascript", node: "javascript" },
  ...{ typescript: "typescript", ts: "typescript", tsx: "typescript" },
  ...{ python: "python", py: "python", python3: "python" },
};

export interface SandboxRun extends ContainedResult {
  /** How the program was contained, for people. */
  tier: string;
}

export interface RunCodeOptions extends Pick<ContainedOptions, "signal"> {
  /** In place of the block's own. */
  language?: string | undefined;
  /** Whether the person takes what only the interpreter itself refuses. */
  unsafe?: boolean | undefined;
}

/** Where the kernel does not hold a program, an interpreter in WebAssembly does, or at last a person who has read it. */
const held: readonly Tier[] = ["namespaces", "wasm"];
const trusted: readonly Tier[] = ["namespaces", "interpreter", "wasm"];

/** A runner is opened, and tried out, when its language is first needed. */
const runners = new Map<string, Promise<Contained>>();

function runnerOf(language: Language, unsafe: boolean): Promise<Contained> {
  const name = `${language} ${unsafe}`;
  const open = runners.get(name) ?? openContained(language, unsafe ? trusted : held);
  runners.set(name, open);
  open.catch(() => runners.delete(name));
  return open;
}

/**
 * Runs a block of JavaScript, TypeScript or Python that a model wrote, each time in a process and folder of its own.
 * @throws KilnError for another language (`language_unknown`), one that has no interpreter here, or that nothing but its own
 * interpreter would hold (`containment_weak`), unless it is `unsafe`
 */
export async function runCode(
  block: CodeBlock,
  { language: given, unsafe = false, signal }: RunCodeOptions = {},
): Promise<SandboxRun> {
  const language = languageOf(given ?? block.language);
  const engine = language === "typescript" ? "javascript" : language;
  const runner = await unlessStopped(runnerOf(engine, unsafe), signal).catch(async (error: KilnError) => {
    throwIfStopped(signal);
    const weak = unsafe ? null : await runnerOf(engine, true).catch(() => null);
    // An audit hook of Python can be undone by the code that it holds, and Node promises nothing of its permission model.
    throw weak
      ? new KilnError(
          `${engine} runs here ${weak.text}, which code that means harm can undo; if you have read the code, say "unsafe". ${error.message}`,
          { code: "containment_weak" },
        )
      : error;
  });
  const tier = runner.text;
  const prepared = language === "python" ? block.code : await asScript(block.code, language);
  if (typeof prepared !== "string") return { ...prepared, tier };
  return { ...(await runner.run(prepared, { ...limits, signal })), tier };
}

/** What is opened goes on to open, for the next program. */
function unlessStopped<T>(opened: Promise<T>, signal?: AbortSignal): Promise<T> {
  const stopped = new Promise<never>((_, reject) => {
    signal?.addEventListener("abort", () => reject(new KilnError("stopped")), { once: true });
  });
  return Promise.race([opened, stopped]);
}

/** JavaScript without types and modules, or how it ends before it begins. */
async function asScript(
  source: string,
  language: "javascript" | "typescript",
): Promise<string | ContainedResult> {
  const { transform } = await import("esbuild");
  const loader = language === "typescript" ? "ts" : "js";
  try {
    return (await transform(source, { loader, format: "cjs", target: "node20", logLevel: "silent" })).code;
  } catch (error) {
    const { errors } = error as { errors?: { text: string; location: { line: number } | null }[] };
    if (!errors?.[0]) throw error;
    const [{ text, location }] = errors;
    const message = `SyntaxError: ${text}${location ? ` (line ${location.line})` : ""}`;
    return { outcome: "syntax", message, output: "", milliseconds: 0 };
  }
}

function languageOf(name: string): Language | "typescript" {
  if (Object.hasOwn(languages, name)) return languages[name];
  const known = "JavaScript, TypeScript and Python run here";
  if (name === "")
    throw new KilnError(`the code does not say its language: /run python, for example; ${known}`, {
      code: "language_unknown",
    });
  const near = nearestName(name, Object.keys(languages));
  throw new KilnError(
    `${firstLine(name)} does not run here${near ? `; did you mean ${near}?` : ""}; ${known}`,
    { code: "language_unknown" },
  );
}

/** How a program ended, in a line such as `exit 0, 0.02 s`. */
export function endOf({ outcome, message, milliseconds }: ContainedResult): string {
  const time = `${(milliseconds / 1000).toFixed(2)} s`;
  const left = /^it left with (\d+)$/.exec(message)?.[1];
  if (outcome === "passed") return `exit 0, ${time}`;
  if (outcome === "exit" && left !== undefined) return `exit ${left}, ${time}`;
  if (outcome === "timeout") return `time limit, ${time}: ${message}`;
  if (outcome === "memory") return `memory limit, ${time}`;
  if (outcome === "output") return `output limit, ${time}: ${message}`;
  if (["read", "write", "network", "process"].includes(outcome))
    return `refused (${outcome}), ${time}: ${message}`;
  return `exit 1, ${time}${message && `: ${message}`}`;
}
