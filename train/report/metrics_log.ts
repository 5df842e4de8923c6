import { readFileSync } from "node:fs";
import { textIfPresent } from "../../core/platform/files.ts";
import { AppendFile } from "./append_file.ts";

/** One line of the metrics log: the update it belongs to and any numbers or texts, e.g. loss, learning_rate, tokens. */
export interface MetricsRecord {
  step: number;
  [name: string]: number | string | boolean | null;
}

/**
 * A JSON Lines log of a run. Each record is handed to the system when written, so a killed process loses none; `flush` makes
 * them survive a power cut. NaN and infinities, which JSON lacks, are written as strings.
 */
export class MetricsLog {
  readonly #file: AppendFile;

  /**
   * Opens a log for appending. A last line that a crash cut off is removed. With `keepThrough`, so are the records of later
   * steps: a resumed run writes those again.
   */
  constructor(path: string, options: { keepThrough?: number } = {}) {
    this.#file = new AppendFile(path, "a+");
    const limit = options.keepThrough ?? Number.POSITIVE_INFINITY;
    const old = readFileSync(path, "utf8");
    const kept = lines(old).filter(({ step }) => step <= limit);
    const text = kept.map((record) => `${JSON.stringify(record)}\n`).join("");
    if (text === old) return;
    this.#file.truncate(0);
    this.#file.append(Buffer.from(text));
  }

  write(record: MetricsRecord): void {
    const text = JSON.stringify(record, (_key, value) => (Object.is(value, -0) ? 0 : finiteOrText(value)));
    this.#file.append(Buffer.from(`${text}\n`));
  }

  flush(): void {
    this.#file.flush();
  }

  close(): void {
    this.#file.close();
  }
}

function finiteOrText(value: unknown): unknown {
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

/** The records of a log's text; lines that are not whole records (cut off by a crash) are left out. */
function lines(text: string): MetricsRecord[] {
  return text.split("\n").flatMap((line) => {
    try {
      const record = JSON.parse(line);
      return typeof record?.step === "number" ? [record as MetricsRecord] : [];
    } catch {
      return [];
    }
  });
}

/** The records of a metrics log, oldest first; none where the file does not exist. */
export function readMetrics(path: string): MetricsRecord[] {
  return lines(textIfPresent(path) ?? "");
}
