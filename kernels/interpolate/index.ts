import { checkOptions, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { rankOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { type PerAxis, perAxis } from "../conv/op.ts";
import { cast, lerp } from "../elementwise/index.ts";
import { indexSelect } from "../gather/op.ts";

export interface InterpolateOptions {
  /** Extents of the result's spatial axes… */
  size?: PerAxis;
  /** … or their ratio to those of x; one of the two is given. */
  scaleFactor?: PerAxis;
  /** `linear` takes [N, C, L], `bilinear` [N, C, H, W], `nearest` (the default) both. */
  mode?: "nearest" | "linear" | "bilinear";
  /** Whether corner pixels coincide instead of the outer edges of pixels; not for `nearest`. */
  alignCorners?: boolean;
}

/** Where the elements of one resized axis come from. */
interface Resize {
  extent: number;
  target: number;
  /** Distance of neighbours of the result, in elements of the input. */
  step: number;
}

/** torch.nn.functional.interpolate: x [N, C, ...] resampled along its one or two spatial axes. */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  const known = ["size", "scaleFactor", "mode", "alignCorners"];
  const { mode = "nearest", alignCorners = false } = checkOptions("interpolate", options, known);
  const n = rankOf("interpolate", x) - 2;
  const fits = { nearest: n === 1 || n === 2, linear: n === 1, bilinear: n === 2 }[mode];
  if (!fits)
    throw opError(
      "interpolate",
      [x],
      `mode "${mode}" takes ${n < 2 ? "[N, C, L]" : "[N, C, H, W]"}; see InterpolateOptions`,
    );
  if (alignCorners && mode === "nearest")
    throw new KilnError('interpolate: alignCorners is for "linear" and "bilinear"');
  return resizes(x, n, options).reduce(
    (t, resize, i) =>
      mode === "nearest" ? nearest(t, 2 + i, resize) : linear(t, 2 + i, resize, alignCorners),
    x,
  );
}

function resizes(x: Tensor, n: number, { size, scaleFactor }: InterpolateOptions): Resize[] {
  const spatial = x.shape.slice(2);
  if ((size === undefined) === (scaleFactor === undefined))
    throw new KilnError("interpolate: give size or scaleFactor, and not both");
  if (spatial.includes(0)) throw opError("interpolate", [x], "an axis has no elements to read");
  if (size !== undefined)
    return perAxis("interpolate", "size", size, n, 1).map((target, i) => ({
      extent: spatial[i],
      target,
      step: spatial[i] / target,
    }));
  const factors = typeof scaleFactor === "number" ? new Array<number>(n).fill(scaleFactor) : scaleFactor!;
  const targets = spatial.map((extent, i) => Math.floor(extent * factors[i]));
  if (factors.length !== n || !targets.every((target) => target >= 1 && target < 2 ** 31))
    throw new KilnError(`interpolate: scaleFactor ${factors} makes extents [${targets}] of [${spatial}]`);
  return targets.map((target, i) => ({ extent: spatial[i], target, step: 1 / factors[i] }));
}

const list = (target: number, of: (i: number) => number) => Array.from({ length: target }, (_, i) => of(i));

const pick = (x: Tensor, dim: number, places: number[]) =>
  indexSelect(x, dim, tensor(places, [places.length], "i32", x.device));

function nearest(x: Tensor, dim: number, { extent, target, step }: Resize): Tensor {
  // PyTorch multiplies in single precision, which decides at whole numbers.
  const place = (i: number) => Math.min(extent - 1, Math.floor(Math.fround(i * Math.fround(step))));
  return pick(x, dim, list(target, place));
}

function linear(x: Tensor, dim: number, { extent, target, step }: Resize, alignCorners: boolean): Tensor {
  const between = target > 1 ? (extent - 1) / (target - 1) : 0;
  const source = (i: number) => (alignCorners ? i * between : Math.max(0, (i + 0.5) * step - 0.5));
  const before = list(target, (i) => Math.min(extent - 1, Math.floor(source(i))));
  const after = before.map((place) => Math.min(extent - 1, place + 1));
  const shape = x.shape.map((_, axis) => (axis === dim ? target : 1));
  const weights = tensor(
    before.map((place, i) => source(i) - place),
    shape,
    "f32",
    x.device,
  );
  return lerp(pick(x, dim, before), pick(x, dim, after), cast(weights, x.dtype));
}
