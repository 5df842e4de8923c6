import { KilnError } from "../../core/errors.ts";
import { decodeFile } from "../data/files.ts";
import { splitLines } from "../data/readers.ts";
import { Diversity } from "../metrics/diversity.ts";
import { Rouge } from "../metrics/rouge.ts";
import { Bleu, type BleuOptions, Chrf } from "../metrics/text.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";

export interface TextFlags {
  hypotheses: string;
  references: string[];
  tokenize?: NonNullable<BleuOptions["tokenize"]>;
  lowercase?: boolean;
  stemmed?: boolean;
}

/**
 * BLEU and chrF as sacrebleu 2.6, ROUGE as rouge_score, of the lines of one file against those of one or several, and how
 * varied these lines are (distinct-n, repetition).
 * Errors: files with different numbers of lines, or without any.
 */
export async function evaluateText(flags: TextFlags): Promise<EvaluationReport> {
  const { hypotheses, references, tokenize = "13a", lowercase = false, stemmed = false } = flags;
  const [bleu, chrf, rouge] = [
    new Bleu({ tokenize, lowercase }),
    new Chrf({ lowercase }),
    new Rouge({ stemmed }),
  ];
  const diversity = new Diversity();
  let segments = 0;
  for await (const [hypothesis, ...others] of lockstep([hypotheses, ...references])) {
    bleu.add(hypothesis, others);
    chrf.add(hypothesis, others);
    rouge.add(hypothesis, others);
    diversity.add(hypothesis);
    segments++;
  }
  const { score, brevityPenalty, hypothesisLength, referenceLength, precisions } = bleu.value();
  const common = `nrefs:${references.length}|case:${lowercase ? "lc" : "mixed"}`;
  const signatures = {
    bleu: `${common}|eff:no|tok:${tokenize}|smooth:exp|version:2.6.0`,
    chrf: `${common}|eff:yes|nc:6|nw:0|space:no|version:2.6.0`,
  };
  const rouges = rouge.value();
  const f1 = Object.fromEntries(Object.entries(rouges).map(([type, each]) => [type, each.f1]));
  const varied = diversity.value();
  const details = {
    brevity_penalty: brevityPenalty,
    hypothesis_length: hypothesisLength,
    reference_length: referenceLength,
  };
  return {
    title: `${hypotheses} against ${references.join(", ")}`,
    values: {
      ...{ task: "text", hypotheses, references, segments },
      bleu: { score, precisions, ...details, signature: signatures.bleu },
      chrf: { score: chrf.value(), signature: signatures.chrf },
      rouge: { ...rouges, stemmed },
      diversity: varied,
    },
    tables: [
      valueTable({ BLEU: score, chrF: chrf.value() }),
      {
        head: ["ROUGE", "F1", "precision", "recall"],
        rows: Object.entries(rouges).map(([type, each]) => [type, f1[type], each.precision, each.recall]),
      },
      {
        head: ["words at a time", "distinct", "repeated"],
        rows: varied.distinct.map((share, i) => [i + 1, share, varied.repetition[i]]),
      },
      valueTable({ segments, ...details }),
    ],
    notes: [
      `sacrebleu's signatures: BLEU ${signatures.bleu}; chrF ${signatures.chrf}.`,
      `ROUGE as rouge_score ${stemmed ? "with" : "without"} stemming, the mean of all segments; with several references the best counts.`,
    ],
  };
}

/** The lines of several files side by side. */
async function* lockstep(files: readonly string[]): AsyncGenerator<string[]> {
  const readers = files.map((file) => splitLines(file, decodeFile(file)));
  try {
    for (let line = 0; ; line++) {
      const next = await Promise.all(readers.map((reader) => reader.next()));
      const ended = next.findIndex(({ done }) => done);
      if (ended < 0) yield next.map(({ value }) => value as string);
      else if (line > 0 && next.every(({ done }) => done)) return;
      else {
        const longer = files[next.findIndex(({ done }) => !done)];
        const problem = longer
          ? `${files[ended]} has ${line} lines, ${longer} has more`
          : `${files[ended]} is empty`;
        throw new KilnError(`${problem}; give one line per segment in each file`, {
          code: "segments_differ",
        });
      }
    }
  } finally {
    // Files of which lines are left would stay open.
    await Promise.all(readers.map((reader) => reader.return(undefined)));
  }
}
