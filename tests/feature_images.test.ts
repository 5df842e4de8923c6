import { readFileSync } from "node:fs";
import fc from "fast-check";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice, setDevice, type Tensor, tensor } from "../index.ts";
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  centerCrop,
  colorJitter,
  crop,
  imageTensor,
  normalize,
  type ResizeOptions,
  randomCrop,
  randomFlip,
  resize,
} from "../models/index.ts";

/**
 * Pictures as tensors, with torchvision 0.28's numbers (torch 2.13, CPU): fixtures/images_torchvision.json, of
 *
 *     i = numpy.arange(n * 3 * h * w); picture(n, h, w) = ((i * 37 + i // 7) % 101) / 100
 *     resize       functional.resize(picture(2, 9, 12), size, mode, antialias=antialias)[:1]
 *     normalize    functional.normalize(picture(2, 9, 12), mean, std)[:1, :, :2]
 *     center_crop  functional.center_crop(picture(2, 9, 12), size)[:1]
 *     adjust       functional.adjust_*(p, factor), p = picture(1, 5, 6) with the pixels of `colours` below
 */
const golden: {
  resize: (Required<ResizeOptions> & { size: [number, number]; values: number[] })[];
  normalize: number[];
  center_crop: { size: [number, number]; values: number[] }[];
  adjust: { name: keyof typeof adjust; factor: number; values: number[] }[];
} = JSON.parse(readFileSync(new URL("fixtures/images_torchvision.json", import.meta.url), "utf8"));

const adjust = {
  ...{ Brightness: adjustBrightness, Contrast: adjustContrast },
  ...{ Saturation: adjustSaturation, Hue: adjustHue },
};
const [MEAN, STD] = [
  [0.485, 0.456, 0.406],
  [0.229, 0.224, 0.225],
];

function values(n: number, height: number, width: number): number[] {
  return Array.from({ length: n * 3 * height * width }, (_, i) => ((i * 37 + Math.floor(i / 7)) % 101) / 100);
}
const picture = (n: number, height: number, width: number) =>
  tensor(values(n, height, width), [n, 3, height, width]);
const first = (x: Tensor) => x.narrow(0, 0, 1);

async function close(actual: Tensor, expected: readonly number[], tolerance = 2e-6) {
  const got = await actual.data();
  expect(got.length).toBe(expected.length);
  const worst = Math.max(...expected.map((value, i) => Math.abs(value - Number(got[i]))));
  expect(worst).toBeLessThan(tolerance);
}

beforeAll(() => openDevice());
afterAll(() => setDevice(null));

describe("pictures", () => {
  it.each(golden.resize.map((c) => [`${c.mode} ${c.antialias ? "antialiased " : ""}${c.size}`, c] as const))(
    "resize: %s",
    async (_, { size, values: expected, ...options }) => {
      await close(first(resize(picture(2, 9, 12), size, options)), expected);
    },
  );

  it("a decoder's resize has the same pixels but for its rounding: a PSNR over 45 dB", async () => {
    const [width, height] = [64, 48];
    const data = Buffer.from(
      Array.from({ length: width * height * 3 }, (_, i) => {
        const [x, y, c] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3];
        return Math.round(127 + 90 * Math.sin(x / (5 + c)) * Math.cos(y / 7) + 30 * Math.sin((x + y) / 3));
      }),
    );
    const png = await sharp(data, { raw: { width, height, channels: 3 } })
      .png()
      .toBuffer();
    const decoded = await sharp(png).raw().toBuffer({ resolveWithObject: true });
    const { channels } = decoded.info;
    const ours = resize(imageTensor({ data: decoded.data, width, height, channels }), [24, 32]);
    const theirs = await sharp(png)
      .resize(32, 24, { kernel: "linear", fastShrinkOnLoad: false })
      .raw()
      .toBuffer();
    const expected = imageTensor({ data: theirs, width: 32, height: 24, channels: 3 });
    const error = await ours.sub(expected).pow(2).mean().item();
    expect(-10 * Math.log10(error)).toBeGreaterThan(45);
  });

  it("normalize and centre crop", async () => {
    const x = picture(2, 9, 12);
    await close(first(normalize(x, MEAN, STD)).narrow(2, 0, 2), golden.normalize);
    for (const { size, values: expected } of golden.center_crop)
      await close(first(centerCrop(x, size)), expected);
  });

  /** Black, white, grey and the three colours between two lights, where formulas of hue divide or choose. */
  const colours: [y: number, x: number, rgb: number[]][] = [
    [0, 0, [0, 0, 0]],
    [0, 1, [1, 1, 1]],
    [1, 1, [0.5, 0.5, 0.5]],
    [2, 2, [0.7, 0.7, 0.2]],
    [2, 3, [0.2, 0.7, 0.7]],
    [2, 4, [0.7, 0.2, 0.7]],
  ];

  it.each(golden.adjust)("$name by $factor", async ({ name, factor, values: expected }) => {
    const own = values(1, 5, 6);
    for (const [y, x, rgb] of colours)
      rgb.forEach((value, channel) => {
        own[channel * 30 + y * 6 + x] = value;
      });
    await close(adjust[name](tensor(own, [1, 3, 5, 6]), factor), expected, 5e-6);
  });

  it("bytes of grey, grey with alpha, and colour with alpha", async () => {
    const of = (channels: number, data: number[]) =>
      imageTensor({ data: Uint8Array.from(data), width: 2, height: 1, channels }).mul(255);
    await close(of(1, [10, 20]), [10, 20, 10, 20, 10, 20], 1e-4);
    await close(of(2, [10, 255, 20, 0]), [10, 20, 10, 20, 10, 20], 1e-4);
    await close(of(4, [1, 2, 3, 9, 4, 5, 6, 9]), [1, 4, 2, 5, 3, 6], 1e-4);
  });
});

describe("changes by chance", () => {
  const size: [number, number] = [5, 6];
  const pictures = () => picture(6, 9, 12);

  it("are the same for the same seed, others for another, and a picture's do not depend on its batch", async () => {
    const changes: ((x: Tensor, seed: number) => Tensor)[] = [
      (x, seed) => randomFlip(x, seed, { vertical: 0.5 }),
      (x, seed) => randomCrop(x, size, seed, 2),
      (x, seed) => colorJitter(x, { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }, seed),
    ];
    for (const change of changes) {
      const [once, again, other] = await Promise.all(
        [7, 7, 8].map((seed) => change(pictures(), seed).data()),
      );
      expect(again).toEqual(once);
      expect(other).not.toEqual(once);
      const fewer = await change(pictures().narrow(0, 0, 3), 7).data();
      expect(fewer).toEqual(once!.slice(0, fewer.length));
    }
  });

  it("flips as often as they should, to exactly the mirrored picture", async () => {
    const x = picture(1, 2, 3);
    const rows = 60;
    const batch = tensor(Array.from({ length: rows }, () => values(1, 2, 3)).flat(), [rows, 3, 2, 3]);
    const data = Array.from(await randomFlip(batch, 3, { horizontal: 0.25 }).data());
    const [own, mirrored] = [await x.data(), await x.flip(3).data()].map((one) => Array.from(one));
    let flipped = 0;
    for (let i = 0; i < rows; i++) {
      const one = data.slice(i * 18, (i + 1) * 18);
      if (one.join() === mirrored!.join()) flipped++;
      else expect(one).toEqual(own);
    }
    // 15 are expected; fewer than 5 or more than 25 have a chance of one in 300.
    expect(flipped).toBeGreaterThanOrEqual(5);
    expect(flipped).toBeLessThanOrEqual(25);
  });

  it("a random crop is a part of its padded picture (property)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(1000), fc.nat(2), async (seed, padding) => {
        const x = picture(1, 4, 4);
        const found = Array.from(await randomCrop(x, [3, 3], seed, padding).data());
        const padded = x.pad([padding, padding, padding, padding]);
        const places = 4 + 2 * padding - 3 + 1;
        const parts: string[] = [];
        for (let top = 0; top < places; top++)
          for (let left = 0; left < places; left++)
            parts.push(Array.from(await crop(padded, top, left, [3, 3]).data()).join());
        expect(parts).toContain(found.join());
      }),
      { numRuns: 6 },
    );
  });

  it("jitter stays within its ranges: brightness alone is a factor from 0.6 to 1.4, and all orders come", async () => {
    const grey = tensor(new Float32Array(64 * 3).fill(0.5), [64, 3, 1, 1]);
    const data = await colorJitter(grey, { brightness: 0.4 }, 5).data();
    const factors = Array.from({ length: 64 }, (_, i) => Number(data[3 * i]) / 0.5);
    expect(Math.min(...factors)).toBeGreaterThanOrEqual(0.6 - 1e-6);
    expect(Math.max(...factors)).toBeLessThanOrEqual(1.4 + 1e-6);
    expect(Math.min(...factors)).toBeLessThan(0.75);
    expect(Math.max(...factors)).toBeGreaterThan(1.25);
  });
});

describe("wrong pictures", () => {
  it.each([
    [
      () => imageTensor({ data: new Uint8Array(5), width: 2, height: 1, channels: 3 }),
      "5 bytes are no picture",
    ],
    [() => resize(picture(1, 4, 4), [0, 3]), "the size is [0,3]; expected a height and a width"],
    [() => crop(picture(1, 4, 4), 2, 0, [3, 3]), "up to 2 and 4"],
    [() => normalize(picture(1, 4, 4), [0], [1]), "for each channel"],
    [() => adjustHue(picture(1, 4, 4), 0.6), "a factor from -0.5 to 0.5"],
    [() => adjustHue(tensor([0.5], [1, 1, 1, 1]), 0.1), "expected RGB"],
    [() => randomFlip(tensor([1, 2]), 1), "expected pictures"],
    [() => colorJitter(picture(1, 4, 4), { bright: 1 } as object, 1), "bright"],
  ])("are refused in one line: %#", (call, message) => {
    expect(call).toThrow(message);
  });
});
