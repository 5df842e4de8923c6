import { appendFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import { bytes, count, duration } from "../core/platform/progress_line.ts";
import { lossCurveSvg } from "../train/report/loss_curve.ts";
import { MetricsLog, readMetrics } from "../train/report/metrics_log.ts";
import { Progress, type ProgressOptions } from "../train/report/progress.ts";
import { crc32c, EventWriter } from "../train/report/tensorboard.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-logs-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("metrics log", () => {
  it("appends records that a reader sees at once, also after reopening", () => {
    const path = join(folder, "run", "metrics.jsonl");
    const log = new MetricsLog(path);
    log.write({ step: 1, loss: 2.5, note: "a\nb" });
    expect(readFileSync(path, "utf8")).toBe('{"step":1,"loss":2.5,"note":"a\\nb"}\n');
    log.close();
    const again = new MetricsLog(path);
    again.write({ step: 2, loss: Number.NaN, norm: Number.POSITIVE_INFINITY });
    again.flush();
    expect(readMetrics(path)).toEqual([
      { step: 1, loss: 2.5, note: "a\nb" },
      { step: 2, loss: "NaN", norm: "Infinity" },
    ]);
    again.close();
    expect(readMetrics(join(folder, "none.jsonl"))).toEqual([]);
  });

  it("drops a line cut off by a crash, and the steps that a resumed run repeats", () => {
    const path = join(folder, "crash.jsonl");
    appendFileSync(path, '{"step":1}\n{"step":2}\n{"step":3}\n{"step":4,"lo');
    expect(readMetrics(path).map(({ step }) => step)).toEqual([1, 2, 3]);
    const log = new MetricsLog(path, { keepThrough: 2 });
    log.write({ step: 3, loss: 1 });
    log.close();
    expect(readFileSync(path, "utf8")).toBe('{"step":1}\n{"step":2}\n{"step":3,"loss":1}\n');
  });

  it("says in one line which file cannot be written", () => {
    expect(() => new MetricsLog(folder)).toThrow(KilnError);
    expect(() => new MetricsLog(folder)).toThrow(/cannot be written: EISDIR[^\n]*$/);
  });
});

/** A bitwise CRC-32C, independent of the writer's table. */
function slowCrc(data: Uint8Array): bigint {
  let crc = 0xffffffffn;
  for (const byte of data) {
    crc ^= BigInt(byte);
    for (let i = 0; i < 8; i++) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
  }
  return crc ^ 0xffffffffn;
}

function masked(data: Uint8Array): bigint {
  const crc = slowCrc(data);
  return (((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn;
}

type Field = { field: number; value: bigint | Buffer };

/** A generic protobuf reader: the fields of one message in order. */
function fields(message: Buffer): Field[] {
  const found: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = Number(varint());
    const sizes: Record<number, () => number> = { 1: () => 8, 2: () => Number(varint()), 5: () => 4 };
    if ((key & 7) === 0) {
      found.push({ field: key >> 3, value: varint() });
      continue;
    }
    const size = sizes[key & 7]();
    expect(at + size).toBeLessThanOrEqual(message.length);
    found.push({ field: key >> 3, value: message.subarray(at, at + size) });
    at += size;
  }
  return found;
}

function tfRecords(file: Buffer): Buffer[] {
  const records: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    expect(BigInt(file.readUInt32LE(at + 8))).toBe(masked(file.subarray(at, at + 8)));
    const payload = file.subarray(at + 12, at + 12 + length);
    expect(payload.length).toBe(length);
    expect(BigInt(file.readUInt32LE(at + 12 + length))).toBe(masked(payload));
    records.push(payload);
    at += length + 16;
  }
  return records;
}

describe("TensorBoard events", () => {
  it("computes CRC-32C as published", () => {
    // The check value of the Castagnoli polynomial, and the test vectors of RFC 3720, appendix B.4.
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  });

  it("writes a file that an independent reader decodes", () => {
    const writer = new EventWriter(join(folder, "events"), 1700000000.25);
    const long = "x".repeat(300);
    writer.scalars(0, { "train/loss": 2.5 }, 1700000001);
    writer.scalars(300, { "train/loss": Number.NaN, "eval/löss": -1e-3, [long]: 1 }, 1700000002);
    writer.scalars(2 ** 40, { rate: 3e-4 });
    writer.flush();
    expect(basename(writer.path)).toMatch(/^events\.out\.tfevents\.1700000000\..+\.\d+\.\d+$/);
    const events = tfRecords(readFileSync(writer.path)).map((record) => {
      const event = fields(record);
      const get = (field: number) => event.find((f) => f.field === field)?.value;
      const values = fields((get(5) as Buffer | undefined) ?? Buffer.alloc(0)).map(({ field, value }) => {
        expect(field).toBe(1);
        const [tag, simple, ...rest] = fields(value as Buffer);
        expect([tag!.field, simple!.field, rest.length]).toEqual([1, 2, 0]);
        return [tag!.value.toString(), (simple!.value as Buffer).readFloatLE(0)] as const;
      });
      return { wall: (get(1) as Buffer).readDoubleLE(0), step: get(2), version: get(3)?.toString(), values };
    });
    writer.close();
    expect(events.length).toBe(4);
    expect(events[0]).toEqual({ wall: 1700000000.25, step: undefined, version: "brain.Event:2", values: [] });
    expect(events[1]).toMatchObject({ wall: 1700000001, step: 0n, values: [["train/loss", 2.5]] });
    expect(events[2].step).toBe(300n);
    expect(events[2].values).toEqual([
      ["train/loss", Number.NaN],
      ["eval/löss", Math.fround(-1e-3)],
      [long, 1],
    ]);
    expect(events[3]).toMatchObject({ step: 2n ** 40n, values: [["rate", Math.fround(3e-4)]] });
    const second = new EventWriter(join(folder, "events"), 1700000000.25);
    expect(second.path).not.toBe(writer.path);
    second.close();
  });
});

describe("progress", () => {
  /** A progress whose clock and output the test holds. */
  function harness(options: Partial<ProgressOptions> & { isTTY: boolean; columns?: number }) {
    let time = 0;
    let text = "";
    const stream = {
      write: (chunk: string) => (text += chunk),
      isTTY: options.isTTY,
      columns: options.columns ?? 120,
    };
    const progress = new Progress({ total: 100, env: {}, now: () => time, stream, ...options });
    const update = (step: number, at: number) => {
      time = at;
      progress.update({ step, loss: 2.34567, tokensPerSecond: 12_345, memoryBytes: 300 * 2 ** 20 });
    };
    return { progress, update, text: () => text };
  }
  const line = (step: number, eta: string) =>
    `step ${step}/100  loss 2.3457  12k tok/s  300 MiB  ETA ${eta}\n`;

  it("prints plain lines every few seconds when piped, and the last step always", () => {
    const { progress, update, text } = harness({ isTTY: false });
    for (let step = 1; step <= 100; step++) update(step, step * 100);
    progress.note("saved");
    progress.end();
    expect(text()).toBe(`${line(1, "–")}${line(51, "5s")}${line(100, "0s")}saved\n`);
  });

  it("shows a held-back state at the end and nothing where nothing happened", () => {
    const { progress, update, text } = harness({ isTTY: false });
    update(1, 1000);
    update(2, 2000);
    progress.end();
    expect(text()).toBe(line(1, "–") + line(2, "1m38s"));
    const idle = harness({ isTTY: false });
    idle.progress.end();
    expect(idle.text()).toBe("");
  });

  it("reckons the remaining time from the updates after the first of this process, which compiles", () => {
    const { update, text } = harness({ isTTY: false });
    update(91, 60_000);
    update(93, 66_000);
    update(95, 72_000);
    expect(text()).toBe(line(91, "–") + line(93, "21s") + line(95, "15s"));
    const single = harness({ isTTY: false });
    single.update(100, 60_000);
    expect(single.text()).toBe(line(100, "0s"));
  });

  it("redraws one line on a terminal, in colour unless NO_COLOR", () => {
    const { progress, update, text } = harness({ isTTY: true });
    update(50, 1000);
    progress.note("a sample");
    update(100, 1050);
    progress.end();
    expect(text().split("\n").length).toBe(3);
    expect(text().startsWith(`\r\x1b[2K\x1b[36m${"━".repeat(10)}\x1b[0m`)).toBe(true);
    expect(text()).toContain("\r\x1b[2Ka sample\n");
    const plain = harness({ isTTY: true, env: { NO_COLOR: "1" } });
    plain.update(50, 1000);
    expect(plain.text().startsWith(`\r\x1b[2K${"━".repeat(10)}${"·".repeat(10)}  step 50/100`)).toBe(true);
    const narrow = harness({ isTTY: true, columns: 30 });
    narrow.update(50, 1000);
    expect(narrow.text()).toBe(`\r\x1b[2K${line(50, "–").slice(0, 29)}`);
  });

  it("writes numbers for people", () => {
    expect([5.25, 950, 1234, 34_000, 5.6e6, 2e9, Number.NaN].map(count)).toEqual([
      "5.3",
      "950",
      "1.2k",
      "34k",
      "5.6M",
      "2.0G",
      "–",
    ]);
    expect([2 ** 20, 3 * 2 ** 30].map(bytes)).toEqual(["1 MiB", "3.0 GiB"]);
    expect([4.6, 65, 7630, Number.POSITIVE_INFINITY].map(duration)).toEqual(["5s", "1m05s", "2h07m", "–"]);
  });
});

describe("loss curve", () => {
  const train = Array.from({ length: 2000 }, (_, i) => ({ step: i + 1, loss: 1 + 6 / (1 + i / 100) }));
  const validation = [500, 1000, 1500, 2000].map((step) => ({ step, loss: 1.2 + 6 / (1 + step / 100) }));

  it("draws both curves inside the picture, with title, axes and both themes", () => {
    const svg = lossCurveSvg({ title: "a <b> & c", train, validation });
    expect(svg).toContain("<title>a &lt;b&gt; &amp; c</title>");
    expect(svg).toContain("prefers-color-scheme: dark");
    expect(svg.match(/<polyline/g)?.length).toBe(3);
    expect(svg.match(/<circle/g)?.length).toBe(4);
    expect(svg).toMatch(/>train 1\.\d{3}</);
    expect(svg).toMatch(/>val 1\.486</);
    for (const label of [">0<", ">500<", ">2000<", ">2<", ">6<", ">step<", ">loss (nats per token)<"])
      expect(svg).toContain(label);
    for (const [, list] of svg.matchAll(/points="([^"]+)"/g)) {
      const points = list!.split(" ").map((pair) => pair.split(",").map(Number));
      expect(points.length).toBeLessThanOrEqual(600);
      for (const [x, y] of points) {
        expect(x! >= 56 && x! <= 624 && y! >= 48 && y! <= 352, `${x},${y}`).toBe(true);
      }
      // A falling loss must go down the page.
      expect(points.at(-1)![1]).toBeGreaterThan(points[0][1]);
    }
    expect(svg.length).toBeLessThan(60_000);
  });

  it("copes with no points, one point, a flat line and values that are not finite", () => {
    const nan = { step: 2, loss: Number.NaN };
    for (const points of [[], train.slice(0, 1), [nan], [{ step: 1, loss: 3 }, nan, { step: 3, loss: 3 }]]) {
      const svg = lossCurveSvg({ title: "t", train: points, validation: points });
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
      expect(svg).toContain("</svg>");
    }
  });
});
