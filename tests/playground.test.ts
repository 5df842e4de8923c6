import { Tokenizer as NativeTokenizer } from "tokenizers";
import { describe, expect, it } from "vitest";
import { smooth, thin, ticks } from "../docs/playground/chart.ts";
import { documentsOf, encode, infoOf, readCorpus } from "../docs/playground/corpus.ts";
import { kernelRows } from "../docs/playground/kernels.ts";
import { sizes } from "../docs/playground/protocol.ts";
import { Run, roomFor } from "../docs/playground/run.ts";
import type { TimedDispatch, WebGpuDevice } from "../index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { Tokenizer as PageLibrary } from "../tokenizer/library_page.ts";

/** The parts of the playground that need no page; the page itself is in playground.slow.test.ts. */
describe("the playground's curve", () => {
  it("keeps every step while there are few, else means of equal stretches", () => {
    expect(thin([3, 2, 1], 10)).toEqual([
      [1, 3],
      [2, 2],
      [3, 1],
    ]);
    expect(thin([4, 2, 3, 1, 9], 3)).toEqual([
      [1.5, 3],
      [3.5, 2],
      [5, 9],
    ]);
  });

  it("is smoothed without a pull towards 0 at its start", () => {
    expect(smooth([5, 5, 5], 0.9)).toEqual([5, 5, 5].map((value) => expect.closeTo(value, 12)));
    expect(smooth([4, 0], 0.5)[1]).toBeCloseTo((0.5 * 0.5 * 4) / 0.75, 12);
  });

  it("has round ticks, also below 1", () => {
    expect(ticks(0, 400, 4)).toEqual([0, 100, 200, 300, 400]);
    expect(ticks(1.5, 3, 4)).toEqual([1.5, 2, 2.5, 3]);
    expect(ticks(0.1, 0.35, 4)).toEqual([0.1, 0.2, 0.3]);
  });
});

describe("the playground's text", () => {
  const read = (text: string | Uint8Array<ArrayBuffer>, name = "a.txt") =>
    readCorpus([new File([text], name)]);

  it("says what is wrong with a file, and how to mend it", async () => {
    await expect(read("word")).rejects.toThrow(/^a\.txt has 4 characters.*at least 2,000/);
    await expect(read(new Uint8Array(5000).fill(0xe9))).rejects.toThrow(/^a\.txt is no UTF-8 text: save it/);
    await expect(read("\0".repeat(5000))).rejects.toThrow(/^a\.txt is no UTF-8 text: save it/);
    await expect(read("x".repeat(31e6))).rejects.toThrow(/have 31 MB.* at most 30 MB, or train with/);
  });

  it("is counted", async () => {
    const info = infoOf(await read("word ".repeat(1000)));
    expect(info).toEqual({ name: "a.txt", words: 1000, characters: 5000 });
    expect(infoOf(await readCorpus([])).name).toBe("600 built-in stories");
  });

  it("becomes the ids that the text has as a whole, between begin and end of each document", async () => {
    const long = "A text of many words, cut where nothing changes. ".repeat(3000);
    const tokenizer = new Tokenizer(trainBpe([long], { vocab_size: 300 }));
    const tokens = await encode([long, "words"], tokenizer);
    const all = [
      ...(await tokenizer.encode(long)),
      tokenizer.eosId!,
      ...(await tokenizer.encode("words")),
      tokenizer.eosId!,
    ];
    const read = new Int32Array(all.length);
    tokens.read(0, all.length, read);
    expect([...read]).toEqual(all);
    expect(tokens.documents.map(({ bytes }) => bytes)).toEqual([long.length, 5]);
    expect(tokens.documents[1].start).toBe(tokens.documents[0].length);
  });
});

describe("the tokenizers of a page", () => {
  const texts = [
    "Once upon a time there was a  fox.\n\n\tShe'd 12 hens,",
    " naïve café — Ωμέγα 漢字かな 한국어 🦊👩‍🚀 e\u0301 \u00a0\u3000 \u0085 \ufeff end",
    "<|endoftext|> is a name here",
    "",
  ];
  const stories = documentsOf({ files: [] }).slice(0, 50);
  const json = trainBpe([...stories, ...texts], { vocab_size: 500 });

  it("give the ids of the native library", async () => {
    const native = NativeTokenizer.fromString(JSON.stringify(json));
    const page = PageLibrary.fromString(JSON.stringify(json));
    for (const text of [...texts, ...stories.slice(0, 10)])
      for (const addSpecialTokens of [true, false]) {
        const expected = (await native.encode(text, null, { addSpecialTokens })).getIds();
        expect((await page.encode(text, null, { addSpecialTokens })).getIds(), text).toEqual(expected);
      }
    expect(page.getVocab(true)).toEqual(native.getVocab(true));
  });

  it("do not say where tokens are, rather than wrongly", async () => {
    const page = PageLibrary.fromString(JSON.stringify(json));
    const encoding = await page.encode("a", null, {});
    expect(() => encoding.getOffsets()).toThrow("not known in a browser: run it in Node");
  });
});

describe("the playground's kernels", () => {
  const dispatch = (source: string, start: number, end: number): TimedDispatch => ({
    ...{ op: "matmul", variant: "plain", file: "matmul/plain.wgsl", source },
    ...{ grid: [1, 1, 1], inputs: [], outputs: [], attrs: null, bytes: 0, start, end },
  });

  it("are summed by their source over the steps, longest first", () => {
    const timed = [
      dispatch("a", 0, 1e6),
      dispatch("b", 1e6, 5e6),
      dispatch("a", 5e6, 6e6),
      dispatch("b", 6e6, 8e6),
    ];
    const rows = kernelRows(timed, 2);
    expect(rows.map(({ source, calls, ms, share }) => [source, calls, ms, share])).toEqual([
      ["b", 1, 3, 0.75],
      ["a", 1, 1, 0.25],
    ]);
  });
});

it("larger sizes of the playground need more room", () => {
  const all = Object.keys(sizes).map((size) =>
    roomFor({ size: size as keyof typeof sizes, context: 128, learningRate: 1, steps: 1 }),
  );
  expect(all.map((room) => room.all)).toEqual(all.map((room) => room.all).sort((a, b) => a - b));
  // WebGPU's default limits hold the smallest.
  expect(all[0].largest).toBeLessThan(2 ** 27);
});

it("a size that the adapter cannot hold is refused in words", async () => {
  const settings = { size: "large", context: 256, learningRate: 1e-3, steps: 10 } as const;
  const start = (maxBindingBytes: number, fits: boolean) => {
    const device = { profile: { maxBindingBytes }, fits: async () => fits };
    return Run.start(settings, { files: [] }, device as unknown as WebGpuDevice, () => {});
  };
  const words =
    /^this adapter is too small for the size large with a context of 256, .*: choose a smaller size/;
  await expect(start(2 ** 20, true)).rejects.toThrow(words);
  await expect(start(2 ** 30, false)).rejects.toThrow(words);
});
