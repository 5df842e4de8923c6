import { checkOptions, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { philox4x32, seedWords, toUnit } from "../../core/random.ts";
import { rankOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import {
  add,
  amax,
  amin,
  cat,
  clamp,
  div,
  eq,
  flip,
  matmul,
  mean,
  minimum,
  mul,
  narrow,
  ne,
  pad,
  permute,
  remainder,
  sub,
  sum,
  where,
} from "../../kernels/index.ts";

// Pictures are f32 [N, 3, height, width] from 0 to 1. What is drawn of a seed depends on the seed and the picture's place in its
// batch alone, and is the same on every device.

/** A picture as decoders give it: bytes, row by row, the channels of a pixel side by side. */
export interface Pixels {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  /** 1: grey, 3: red, green and blue, 2 and 4: with an alpha channel, which is left out. */
  readonly channels: number;
}

/** A decoded picture as [1, 3, height, width] from 0 to 1. @throws KilnError where the bytes are not as many as the pixels need. */
export function imageTensor({ data, width, height, channels }: Pixels): Tensor {
  if (![1, 2, 3, 4].includes(channels) || data.length !== width * height * channels)
    throw new KilnError(
      `imageTensor: ${data.length} bytes are no picture of ${width} x ${height} with ${channels} channels (1 to 4)`,
    );
  const size = width * height;
  const values = new Float32Array(3 * size);
  for (let channel = 0; channel < 3; channel++)
    for (let i = 0; i < size; i++)
      values[channel * size + i] = data[i * channels + (channels < 3 ? 0 : channel)] / 255;
  return tensor(values, [1, 3, height, width]);
}

export interface ResizeOptions {
  /** Default `bilinear`. */
  mode?: "bilinear" | "bicubic";
  /** Whether every pixel counts when a picture gets smaller, as in PIL and torchvision (default), or only the nearest ones. */
  antialias?: boolean;
}

/** A filter by the distance from its middle, and the distance at which it ends. */
interface Filter {
  readonly reach: number;
  at(distance: number): number;
}

const triangle: Filter = { reach: 1, at: (distance) => Math.max(0, 1 - Math.abs(distance)) };

/** Keys 1981 with his parameter a. */
const cubic = (a: number): Filter => ({
  reach: 2,
  at(distance) {
    const x = Math.abs(distance);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
  },
});

/** The weights with which `extent` elements make `target` ones, [target, extent]. */
function resampling(extent: number, target: number, { mode, antialias }: Required<ResizeOptions>): Tensor {
  // PIL's cubic filter has a = -0.5, that of PyTorch without antialiasing -0.75.
  const filter = mode === "bilinear" ? triangle : cubic(antialias ? -0.5 : -0.75);
  const step = extent / target;
  const width = antialias ? Math.max(1, step) : 1;
  const values = new Float32Array(target * extent);
  for (let i = 0; i < target; i++) {
    const middle = (i + 0.5) * step - 0.5;
    const reach = filter.reach * width;
    const weights: [place: number, weight: number][] = [];
    for (let j = Math.ceil(middle - reach); j <= Math.floor(middle + reach); j++) {
      const inside = Math.min(extent - 1, Math.max(0, j));
      // Beyond its edge a picture ends with antialiasing, and goes on as it is at the edge without.
      if (antialias && inside !== j) continue;
      weights.push([inside, filter.at((j - middle) / width)]);
    }
    const total = weights.reduce((all, [, weight]) => all + weight, 0);
    for (const [place, weight] of weights) values[i * extent + place] += weight / total;
  }
  return tensor(values, [target, extent]);
}

/** Resamples pictures to [height, width]: torchvision's resize of tensors, as two products with the filter's weights. */
export function resize(
  x: Tensor,
  [height, width]: readonly [height: number, width: number],
  options: ResizeOptions = {},
): Tensor {
  const { mode = "bilinear", antialias = true } = checkOptions("resize", options, ["mode", "antialias"]);
  checkPictures("resize", x);
  checkSize("resize", [height, width], Infinity, Infinity);
  const [rows, columns] = [x.shape[2], x.shape[3]];
  const across = matmul(x, permute(resampling(columns, width, { mode, antialias }), [1, 0]));
  return matmul(resampling(rows, height, { mode, antialias }), across);
}

/** (x - mean) / std by channel, e.g. ImageNet's [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]. */
export function normalize(x: Tensor, mean: readonly number[], std: readonly number[]): Tensor {
  checkPictures("normalize", x);
  if (mean.length !== x.shape[1] || std.length !== x.shape[1] || std.includes(0))
    throw opError("normalize", [x], "expected a mean, and a std that is not 0, for each channel");
  const byChannel = (values: readonly number[]) => tensor([...values], [values.length, 1, 1]);
  return div(sub(x, byChannel(mean)), byChannel(std));
}

/** The part of pictures of `size` [height, width] whose upper left corner is at `top` and `left`. */
export function crop(
  x: Tensor,
  top: number,
  left: number,
  size: readonly [height: number, width: number],
): Tensor {
  checkPictures("crop", x);
  checkSize("crop", size, x.shape[2] - top, x.shape[3] - left);
  return narrow(narrow(x, 2, top, size[0]), 3, left, size[1]);
}

/** The middle of pictures, as torchvision's center_crop of pictures that are large enough. */
export function centerCrop(x: Tensor, size: readonly [height: number, width: number]): Tensor {
  checkPictures("centerCrop", x);
  checkSize("centerCrop", size, x.shape[2], x.shape[3]);
  const [top, left] = [x.shape[2] - size[0], x.shape[3] - size[1]].map((rest) => halfEven(rest));
  return crop(x, top!, left!, size);
}

/** Half of a whole number as Python rounds it. */
function halfEven(value: number): number {
  const half = Math.floor(value / 2);
  return value % 2 === 1 && half % 2 === 1 ? half + 1 : half;
}

/** A part of each picture at a random place, with `padding` black pixels around it first. */
export function randomCrop(
  x: Tensor,
  size: readonly [height: number, width: number],
  seed: number,
  padding = 0,
): Tensor {
  checkPictures("randomCrop", x);
  const padded = padding === 0 ? x : pad(x, [padding, padding, padding, padding]);
  const free = [padded.shape[2] - size[0], padded.shape[3] - size[1]];
  checkSize("randomCrop", size, padded.shape[2], padded.shape[3]);
  return eachPicture(padded, (picture, place) => {
    const [u, v] = draws(seed, "crop", place);
    return crop(picture, Math.floor(u * (free[0] + 1)), Math.floor(v * (free[1] + 1)), size);
  });
}

/** Mirrors each picture left to right with the probability `horizontal` (default 0.5), upside down with `vertical` (default 0). */
export function randomFlip(
  x: Tensor,
  seed: number,
  { horizontal = 0.5, vertical = 0 }: { horizontal?: number; vertical?: number } = {},
): Tensor {
  checkPictures("randomFlip", x);
  return eachPicture(x, (picture, place) => {
    const [u, v] = draws(seed, "flip", place);
    const dims = [...(u < horizontal ? [3] : []), ...(v < vertical ? [2] : [])];
    return dims.length === 0 ? picture : flip(picture, dims);
  });
}

/** A mix of two pictures: `factor` of the first, and what is left to 1 of the second; above 1 away from the second. */
const blend = (x: Tensor, other: Tensor | number, factor: Tensor): Tensor =>
  clamp(add(mul(x, factor), mul(sub(1, factor), other)), 0, 1);

/** Brightness by ITU-R BT.601, [N, 1, H, W]. */
const grey = (x: Tensor): Tensor => sum(mul(x, tensor([0.2989, 0.587, 0.114], [3, 1, 1])), 1, true);

/** One factor a picture, or the same for all. */
function factorsOf(op: string, x: Tensor, factors: number | readonly number[], least: number, most: number) {
  checkPictures(op, x);
  const all = typeof factors === "number" ? new Array<number>(x.shape[0]).fill(factors) : [...factors];
  if (
    x.shape[1] !== 3 ||
    all.length !== x.shape[0] ||
    !all.every((factor) => factor >= least && factor <= most)
  )
    throw opError(
      op,
      [x],
      `expected RGB, and a factor from ${least} to ${most} for all pictures or for each`,
    );
  return tensor(all, [all.length, 1, 1, 1]);
}

/** Each picture `factor` times as bright: 0 is black, 1 the picture. */
export const adjustBrightness = (x: Tensor, factor: number | readonly number[]): Tensor =>
  blend(x, 0, factorsOf("adjustBrightness", x, factor, 0, Infinity));

/** Moves each picture away from its mean grey, by `factor`: 0 is that grey, 1 the picture. */
export const adjustContrast = (x: Tensor, factor: number | readonly number[]): Tensor =>
  blend(x, mean(grey(x), [1, 2, 3], true), factorsOf("adjustContrast", x, factor, 0, Infinity));

/** Moves each pixel away from its grey, by `factor`: 0 is without colour, 1 the picture. */
export const adjustSaturation = (x: Tensor, factor: number | readonly number[]): Tensor =>
  blend(x, grey(x), factorsOf("adjustSaturation", x, factor, 0, Infinity));

/** Turns the hue of each picture by a share of the circle from -0.5 to 0.5, in HSV (Smith 1978). */
export function adjustHue(x: Tensor, factor: number | readonly number[]): Tensor {
  const turn = factorsOf("adjustHue", x, factor, -0.5, 0.5);
  const [r, g, b] = [0, 1, 2].map((channel) => narrow(x, 1, channel, 1)) as [Tensor, Tensor, Tensor];
  const value = amax(x, 1, true);
  const chroma = sub(value, amin(x, 1, true));
  const isGrey = eq(chroma, 0);
  const by = where(isGrey, 1, chroma);
  const sixths = where(
    eq(value, r),
    div(sub(g, b), by),
    where(eq(value, g), add(div(sub(b, r), by), 2), add(div(sub(r, g), by), 4)),
  );
  const hue = add(where(isGrey, 0, sixths), mul(turn, 6));
  // A channel falls from the value as its own place on the circle gets further from the hue.
  const channels = [5, 3, 1].map((place) => {
    const k = remainder(add(hue, place), 6);
    return sub(value, mul(chroma, clamp(minimum(k, sub(4, k)), 0, 1)));
  });
  return cat(channels, 1);
}

export interface JitterOptions {
  /** Factors are drawn from 1 less this to 1 and this; of hue from minus this to this, 0.5 at most. Default 0 of each. */
  brightness?: number;
  contrast?: number;
  saturation?: number;
  hue?: number;
}

const adjustments = {
  brightness: adjustBrightness,
  contrast: adjustContrast,
  saturation: adjustSaturation,
  hue: adjustHue,
};
type Adjustment = keyof typeof adjustments;

/** Changes brightness, contrast, saturation and hue of each picture at random, in an order that is drawn too: torchvision's ColorJitter. */
export function colorJitter(x: Tensor, options: JitterOptions, seed: number): Tensor {
  const names = Object.keys(adjustments) as Adjustment[];
  checkOptions("colorJitter", options, names);
  checkPictures("colorJitter", x);
  const plans = Array.from({ length: x.shape[0] }, (_, place) => jitterOf(options, seed, place));
  let out = x;
  // All pictures at once: what is some pictures' first change is made of all, and kept of these.
  for (let turn = 0; turn < names.length; turn++)
    for (const name of names) {
      const own = plans.map((plan) => (plan[turn]?.[0] === name ? plan[turn][1] : null));
      if (own.every((factor) => factor === null)) continue;
      const changed = adjustments[name](
        out,
        own.map((factor) => factor ?? 0),
      );
      const chosen = Float32Array.from(own, (factor) => (factor === null ? 0 : 1));
      out = where(ne(tensor(chosen, [chosen.length, 1, 1, 1]), 0), changed, out);
    }
  return out;
}

/** What is drawn for the picture at a place, in the order in which it is done. */
function jitterOf(options: JitterOptions, seed: number, place: number): [name: Adjustment, factor: number][] {
  const units = draws(seed, "jitter", place);
  const order = draws(seed, "order", place);
  return (Object.keys(adjustments) as Adjustment[])
    .map((name, i) => ({ name, i, range: options[name] ?? 0 }))
    .filter(({ range }) => range > 0)
    .sort((a, b) => order[a.i] - order[b.i])
    .map(({ name, i, range }) => {
      const [low, high] = name === "hue" ? [-range, range] : [Math.max(0, 1 - range), 1 + range];
      return [name, low + units[i] * (high - low)];
    });
}

/** Streams of a seed, so that flips tell nothing of crops. */
const purposes = { crop: 0, flip: 1, jitter: 2, order: 3 };

/** Four numbers in [0, 1) of a picture. */
const draws = (
  seed: number,
  purpose: keyof typeof purposes,
  place: number,
): [number, number, number, number] => {
  const [a, b, c, d] = philox4x32(seedWords(seed), [place, purposes[purpose], 0, 0]);
  return [toUnit(a!), toUnit(b!), toUnit(c!), toUnit(d!)];
};

const eachPicture = (x: Tensor, of: (picture: Tensor, place: number) => Tensor): Tensor =>
  cat(
    Array.from({ length: x.shape[0] }, (_, place) => of(narrow(x, 0, place, 1), place)),
    0,
  );

function checkPictures(op: string, x: Tensor): void {
  if (rankOf(op, x) !== 4 || x.dtype !== "f32")
    throw opError(op, [x], "expected pictures, f32 [N, channels, height, width]");
}

function checkSize(op: string, size: readonly number[], height: number, width: number): void {
  const fits = (n: number | undefined, most: number) =>
    Number.isInteger(n) && (n ?? 0) >= 1 && (n ?? 0) <= most;
  if (size.length !== 2 || !fits(size[0], height) || !fits(size[1], width))
    throw new KilnError(
      `${op}: the size is [${size}]; expected a height and a width${height < Infinity ? ` up to ${height} and ${width}` : ""}`,
    );
}
