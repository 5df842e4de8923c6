import { checkOptions, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { rankOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import {
  add,
  amax,
  cast,
  cat,
  conv2d,
  div,
  flip,
  gt,
  log10,
  matmul,
  maximum,
  mean,
  mul,
  narrow,
  onesLike,
  overlapAdd,
  pad,
  permute,
  reshape,
  sqrt,
  std,
  sub,
  windows,
} from "../../kernels/index.ts";

// Sounds are f32 [N, samples] from -1 to 1. The discrete Fourier transform is a product with its matrix: for windows of some
// hundred samples that is what a GPU does fastest. Defaults and scales are librosa's 0.11.

export interface SpectrumOptions {
  /** Samples of a window, and of the Fourier transform; default 2048. */
  size?: number;
  /** Samples from one window to the next; default a quarter of the window. */
  hop?: number;
  /** What is before and after the sound, so that the first window has its first sample in the middle: default silence. */
  padding?: "silence" | "reflect";
}

/** A spectrum, [N, size / 2 + 1, windows] each. */
export interface Spectrum {
  readonly real: Tensor;
  readonly imaginary: Tensor;
}

const spectrumOptions = ["size", "hop", "padding"];

function settled(op: string, { size = 2048, hop = size >> 2, padding = "silence" }: SpectrumOptions) {
  if (!Number.isInteger(size) || size < 2 || size % 2 !== 0 || !Number.isInteger(hop) || hop < 1)
    throw new KilnError(
      `${op}: size is ${size} and hop ${hop}; expected an even size, and a hop of 1 at least`,
    );
  return { size, hop, padding };
}

/** Channels of a decoder, [channels][samples], as one sound [1, samples]: their mean. */
export function soundTensor(channels: readonly Float32Array[]): Tensor {
  const [first] = channels;
  if (first === undefined || channels.some(({ length }) => length !== first.length))
    throw new KilnError("soundTensor: expected channels of the same length, one at least");
  const values = first.map(
    (_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length,
  );
  return tensor(values, [1, first.length]);
}

/** Zero crossings of the filter to either side of a sample, and the share of the lower rate's band that it lets through. */
const CROSSINGS = 6;
const ROLL_OFF = 0.99;
const MOST_PHASES = 10_000;

/**
 * Sounds at another rate, [N, ceil(samples * to / from)]: band-limited interpolation by a sinc under Hann's window, torchaudio's
 * `resample` with its defaults, as one product with the filter's phases.
 */
export function resample(x: Tensor, { from, to }: { from: number; to: number }): Tensor {
  checkSounds("resample", x);
  if (![from, to].every((rate) => Number.isSafeInteger(rate) && rate > 0))
    throw new KilnError(`resample: rates are ${from} and ${to}; expected whole numbers above 0`);
  const common = divisor(from, to);
  const [old, now] = [from / common, to / common];
  if (old === now) return x;
  if (Math.max(old, now) > MOST_PHASES)
    throw new KilnError(
      `resample: ${from} and ${to} have a common divisor of ${common} only, which takes a filter of ${Math.max(old, now)} phases; choose rates with a larger one`,
    );
  const band = Math.min(old, now) * ROLL_OFF;
  const width = Math.ceil((CROSSINGS * old) / band);
  const reach = 2 * width + old;
  const phases = new Float32Array(reach * now);
  for (let i = 0; i < reach; i++)
    for (let phase = 0; phase < now; phase++) {
      const place = ((i - width) / old - phase / now) * band;
      const t = Math.min(CROSSINGS, Math.max(-CROSSINGS, place));
      const window = Math.cos((Math.PI * t) / CROSSINGS / 2) ** 2;
      const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
      phases[i * now + phase] = (sinc * window * band) / old;
    }
  const [sounds, samples] = x.shape as [number, number];
  const frames = windows(pad(x, [width, width + old]), 1, reach, old); // [N, frames, reach]
  const made = matmul(frames, tensor(phases, [reach, now])); // [N, frames, now]
  return narrow(reshape(made, [sounds, -1]), 1, 0, Math.ceil((samples * now) / old));
}

const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

/** Hann's window as periods have it. */
const hann = (size: number) =>
  Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));

/** Cosines and sines of the Fourier transform, [size, bins] each, each row times `scale` of its sample and its bin. */
function fourier(size: number, scale: (sample: number, bin: number) => number): [cos: Tensor, sin: Tensor] {
  const bins = size / 2 + 1;
  const matrix = (of: (angle: number) => number) => {
    const values = new Float32Array(size * bins);
    for (let t = 0; t < size; t++)
      for (let k = 0; k < bins; k++)
        // Whole turns left out in whole numbers: the angle stays exact.
        values[t * bins + k] = of((2 * Math.PI * ((t * k) % size)) / size) * scale(t, k);
    return tensor(values, [size, bins]);
  };
  return [matrix(Math.cos), matrix((angle) => -Math.sin(angle))];
}

/** The short-time Fourier transform with Hann's window, the first window around the first sample. */
export function stft(x: Tensor, options: SpectrumOptions = {}): Spectrum {
  checkSounds("stft", x);
  const { size, hop, padding } = settled("stft", checkOptions("stft", options, spectrumOptions));
  const half = size / 2;
  if (padding === "reflect" && x.shape[1] <= half)
    throw opError("stft", [x], `expected more than ${half} samples to reflect`);
  const samples = x.shape[1];
  const padded =
    padding === "silence"
      ? pad(x, [half, half])
      : cat([flip(narrow(x, 1, 1, half), 1), x, flip(narrow(x, 1, samples - 1 - half, half), 1)], 1);
  const frames = windows(padded, 1, size, hop);
  const window = hann(size);
  const [real, imaginary] = fourier(size, (t) => window[t]).map((matrix) =>
    permute(matmul(frames, matrix), [0, 2, 1]),
  );
  return { real, imaginary };
}

/** The sound of a spectrum, [N, samples]: windows overlapped and divided by the sum of their squares (Griffin and Lim 1984). */
export function istft({ real, imaginary }: Spectrum, options: SpectrumOptions & { samples: number }): Tensor {
  const { samples, ...own } = checkOptions("istft", options, [...spectrumOptions, "samples"]);
  const { size, hop } = settled("istft", own);
  const count = real.shape[2];
  const extent = size + (count - 1) * hop;
  if (real.shape[1] !== size / 2 + 1 || extent - size / 2 < samples)
    throw opError("istft", [real], `expected ${size / 2 + 1} bins, and windows for ${samples} samples`);
  const window = hann(size);
  // Bins between the first and the last stand for two, of which one is left out.
  const [cos, sin] = fourier(size, (t, k) => (window[t] * (k === 0 || k === size / 2 ? 1 : 2)) / size);
  const frames = [
    matmul(permute(real, [0, 2, 1]), permute(cos, [1, 0])),
    matmul(permute(imaginary, [0, 2, 1]), permute(sin, [1, 0])),
  ];
  const squares = tensor(
    Array.from({ length: count * size }, (_, i) => window[i % size] ** 2),
    [1, count, size],
  );
  const sound = overlapAdd(add(frames[0], frames[1]), 1, extent, hop);
  const weight = overlapAdd(squares, 1, extent, hop);
  return narrow(div(sound, maximum(weight, 1e-11)), 1, size / 2, samples);
}

export interface MelOptions extends SpectrumOptions {
  /** Of the sound; default 22,050. */
  sampleRate?: number;
  /** Bands; default 128. */
  mels?: number;
  /** Hz of the lowest and the highest band's end; default 0 and half the rate. */
  lowest?: number;
  highest?: number;
  /** `slaney`: linear up to 1 kHz (Auditory Toolbox, default); `htk`: 2595 log10(1 + f / 700). */
  scale?: "slaney" | "htk";
  /** Whether bands have the same area (default), or the same height. */
  sameArea?: boolean;
}

const melOptions = [...spectrumOptions, "sampleRate", "mels", "lowest", "highest", "scale", "sameArea"];

/** From Hz to mels, and back. */
const scales = {
  htk: {
    mel: (hz: number) => 2595 * Math.log10(1 + hz / 700),
    hz: (mel: number) => 700 * (10 ** (mel / 2595) - 1),
  },
  slaney: {
    mel: (hz: number) => (hz < 1000 ? (3 * hz) / 200 : 15 + (27 * Math.log(hz / 1000)) / Math.log(6.4)),
    hz: (mel: number) => (mel < 15 ? (200 * mel) / 3 : 1000 * Math.exp((Math.log(6.4) * (mel - 15)) / 27)),
  },
};

/** The weights of a Fourier transform's bins in each band, [mels, size / 2 + 1]: triangles that overlap by half. */
export function melFilters(options: MelOptions = {}): Tensor {
  checkOptions("melFilters", options, melOptions);
  const { sampleRate = 22050, mels = 128, lowest = 0, highest = sampleRate / 2 } = options;
  const { scale = "slaney", sameArea = true } = options;
  const { size } = settled("melFilters", options);
  if (!(mels >= 1 && lowest >= 0 && lowest < highest && highest <= sampleRate / 2))
    throw new KilnError(
      `melFilters: ${mels} bands from ${lowest} to ${highest} Hz; expected one at least, within 0 and ${sampleRate / 2} Hz`,
    );
  const { mel, hz } = scales[scale];
  const [from, to] = [mel(lowest), mel(highest)];
  const edges = Array.from({ length: mels + 2 }, (_, i) => hz(from + (i * (to - from)) / (mels + 1)));
  const bins = size / 2 + 1;
  const values = new Float32Array(mels * bins);
  for (let band = 0; band < mels; band++) {
    const [left, middle, right] = edges.slice(band, band + 3);
    const height = sameArea ? 2 / (right - left) : 1;
    for (let bin = 0; bin < bins; bin++) {
      const at = (bin * sampleRate) / size;
      const rise = Math.min((at - left) / (middle - left), (right - at) / (right - middle));
      values[band * bins + bin] = Math.max(0, rise) * height;
    }
  }
  return tensor(values, [mels, bins]);
}

const power = ({ real, imaginary }: Spectrum) => add(mul(real, real), mul(imaginary, imaginary));

/** Power by mel bands, [N, mels, windows]. */
export function melSpectrogram(x: Tensor, options: MelOptions = {}): Tensor {
  checkOptions("melSpectrogram", options, melOptions);
  const { size, hop, padding } = options;
  const own = { ...(size && { size }), ...(hop && { hop }), ...(padding && { padding }) };
  return matmul(melFilters(options), power(stft(x, own)));
}

/** Decibels of a power, 10 log10: at most `range` below each sound's loudest. */
export function decibels(powers: Tensor, range = 80): Tensor {
  const levels = mul(log10(maximum(powers, 1e-10)), 10);
  return maximum(levels, sub(amax(levels, [1, 2], true), range));
}

export interface MfccOptions extends MelOptions {
  /** Default 20. */
  coefficients?: number;
}

/** Mel-frequency cepstral coefficients, [N, coefficients, windows]: the cosine transform (DCT-II, orthonormal) of the bands' decibels. */
export function mfcc(x: Tensor, options: MfccOptions = {}): Tensor {
  const { coefficients = 20, ...own } = checkOptions("mfcc", options, [...melOptions, "coefficients"]);
  const { mels = 128 } = own;
  if (!(Number.isInteger(coefficients) && coefficients >= 1 && coefficients <= mels))
    throw new KilnError(
      `mfcc: ${coefficients} coefficients of ${mels} bands; expected 1 to as many as bands`,
    );
  const values = Array.from({ length: coefficients * mels }, (_, i) => {
    const [k, n] = [Math.floor(i / mels), i % mels];
    return Math.sqrt((k === 0 ? 1 : 2) / mels) * Math.cos((Math.PI * k * (2 * n + 1)) / (2 * mels));
  });
  return matmul(tensor(values, [coefficients, mels]), decibels(melSpectrogram(x, own)));
}

export interface GateOptions {
  sampleRate: number;
  /** A sound of the noise alone, f32 [1, samples]; default: the sound itself, each one by its own. */
  noise?: Tensor;
  /** Standard deviations above the noise's mean level from which a sound is kept; default 1.5. */
  deviations?: number;
  /** Share of the noise that is taken away; default 1. */
  reduction?: number;
  /** Hz and milliseconds over which the gate is smoothed; default 500 and 50. */
  smoothHz?: number;
  smoothMs?: number;
  /** Samples of a window, default 1024, and from one to the next, default a quarter. */
  size?: number;
  hop?: number;
}

const gateOptions = ["sampleRate", "noise", "deviations", "reduction", "smoothHz", "smoothMs", "size", "hop"];

/**
 * Takes steady noise away: what is not louder than the noise in its part of the spectrum is turned down, smoothly (spectral
 * gating as in Audacity and in Sainburg's noisereduce, stationary; at the ends of the spectrum and the sound the gate is the mean
 * of the neighbours that there are, where noisereduce fades out). For tones, which are narrow, smooth over few Hz.
 */
export function spectralGate(x: Tensor, options: GateOptions): Tensor {
  checkSounds("spectralGate", x);
  const { sampleRate, noise = x, ...own } = checkOptions("spectralGate", options, gateOptions);
  const { deviations = 1.5, reduction = 1, smoothHz = 500, smoothMs = 50, size = 1024 } = own;
  const { hop } = settled("spectralGate", { size, ...(own.hop && { hop: own.hop }) });
  if (!(reduction >= 0 && reduction <= 1) || !(sampleRate > 0))
    throw new KilnError(
      `spectralGate: reduction is ${reduction} and sampleRate ${sampleRate}; expected a share of 1, and a rate in Hz`,
    );
  const levels = (spectrum: Spectrum) => {
    const db = mul(log10(add(sqrt(power(spectrum)), 2 ** -52)), 20);
    return maximum(db, sub(amax(db, 2, true), 80));
  };
  const spectrum = stft(x, { size, hop });
  const quiet = levels(stft(noise, { size, hop }));
  const threshold = add(mean(quiet, 2, true), mul(std(quiet, 2, 0, true), deviations));
  const open = cast(gt(levels(spectrum), threshold), "f32");
  const bins = Math.max(1, Math.floor(smoothHz / (sampleRate / (size / 2))));
  const steps = Math.max(1, Math.floor(smoothMs / ((1000 * hop) / sampleRate)));
  const gate = smoothed(add(mul(open, reduction), 1 - reduction), bins, steps);
  const [real, imaginary] = [mul(spectrum.real, gate), mul(spectrum.imaginary, gate)];
  return istft({ real, imaginary }, { size, hop, samples: x.shape[1] });
}

/** The mean over those neighbours that there are, weighted by triangles that reach `bins` and `steps` far; 1 and 1: the gate itself. */
function smoothed(gate: Tensor, bins: number, steps: number): Tensor {
  return bins === 1 && steps === 1
    ? gate
    : div(weighted(gate, bins, steps), weighted(onesLike(gate), bins, steps));
}

function weighted(gate: Tensor, bins: number, steps: number): Tensor {
  const [count, rows, columns] = gate.shape;
  const kernel = (reach: number, shape: number[]) => {
    const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => ramp(i, reach));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return tensor(
      weights.map((weight) => weight / total),
      shape,
    );
  };
  const image = reshape(gate, [count, 1, rows, columns]);
  const down = conv2d(image, kernel(bins, [1, 1, 2 * bins + 1, 1]), null, { padding: [bins, 0] });
  const across = conv2d(down, kernel(steps, [1, 1, 1, 2 * steps + 1]), null, { padding: [0, steps] });
  return reshape(across, [count, rows, columns]);
}

/** numpy.linspace(0, 1, reach + 1, endpoint=False) up and linspace(1, 0, reach + 2) down, without the zeros at both ends. */
const ramp = (i: number, reach: number): number =>
  i < reach ? (i + 1) / (reach + 1) : 1 - (i - reach) / (reach + 1);

function checkSounds(op: string, x: Tensor): void {
  if (rankOf(op, x) !== 2 || x.dtype !== "f32" || x.shape[1] === 0)
    throw opError(op, [x], "expected sounds, f32 [N, samples]");
}
