import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice, setDevice, type Tensor, tensor } from "../index.ts";
import {
  decibels,
  type GateOptions,
  istft,
  type MelOptions,
  melFilters,
  melSpectrogram,
  mfcc,
  resample,
  soundTensor,
  spectralGate,
  stft,
} from "../models/index.ts";

/**
 * Sounds as tensors, with librosa 0.11's numbers: fixtures/sound_librosa.json, of the sound y below at 8 kHz.
 *
 *     stft     librosa.stft(y, n_fft=256, hop_length=100)[:, :3]
 *     reflect  librosa.stft(y, n_fft=256, pad_mode="reflect")[:, [0, 1, -1]]
 *     filters  librosa.filters.mel(...)
 *     mel      librosa.feature.melspectrogram(y=y, sr=8000, n_fft=512, hop_length=200, n_mels=24)
 *     db       librosa.power_to_db(mel)
 *     mfcc     librosa.feature.mfcc of the same, n_mfcc=13
 *     gate     every 4th sample of noisereduce 3.0's stationary gate, written with scipy 1.17.1 (stft, fftconvolve, istft), its
 *              smoothed mask divided by that of ones
 */
interface Part {
  shape: number[];
  real: number[];
  imaginary: number[];
}
const golden: {
  stft: Part;
  reflect: Part;
  filters: { args: MelOptions; values: number[] }[];
  mel: number[];
  db: number[];
  mfcc: number[];
  gate: { args: GateOptions; values: number[] }[];
} = JSON.parse(readFileSync(new URL("fixtures/sound_librosa.json", import.meta.url), "utf8"));

const RATE = 8000;
const SAMPLES = 2400;
const list = (count: number, of: (i: number) => number) => Array.from({ length: count }, (_, i) => of(i));
/** Whole numbers far from each other, as noise from -1 to 1. */
const noise = list(SAMPLES, (i) => ((i * 7919 + ((i * i) % 1009) * 31) % 2003) / 1001.5 - 1);
const tones = list(SAMPLES, (i) => {
  const t = i / RATE;
  return 0.5 * Math.sin(2 * Math.PI * 440 * t) + 0.25 * Math.sin(2 * Math.PI * 1310 * t) * Math.exp(-6 * t);
});
const sound = () =>
  tensor(
    tones.map((value, i) => value + 0.05 * noise[i]!),
    [1, SAMPLES],
  );
const hum = () =>
  tensor(
    noise.map((value) => 0.05 * value),
    [1, SAMPLES],
  );

/** The largest difference, as a share of the largest value. */
async function close(actual: Tensor, expected: readonly number[], tolerance: number) {
  const got = await actual.data();
  expect(got.length).toBe(expected.length);
  const most = Math.max(...expected.map(Math.abs));
  const worst = Math.max(...expected.map((value, i) => Math.abs(value - Number(got[i]))));
  expect(worst / most).toBeLessThan(tolerance);
}

beforeAll(() => openDevice());
afterAll(() => setDevice(null));

describe("spectra", () => {
  it("the short-time Fourier transform, around silence and reflected", async () => {
    const own = stft(sound(), { size: 256, hop: 100 });
    expect(own.real.shape).toEqual([1, ...golden.stft.shape]);
    await close(own.real.narrow(2, 0, 3), golden.stft.real, 2e-6);
    await close(own.imaginary.narrow(2, 0, 3), golden.stft.imaginary, 2e-6);
    const mirrored = stft(sound(), { size: 256, padding: "reflect" });
    expect(mirrored.real.shape).toEqual([1, ...golden.reflect.shape]);
    const places = tensor([0, 1, golden.reflect.shape[1]! - 1], [3], "i32");
    await close(mirrored.real.indexSelect(2, places), golden.reflect.real, 2e-6);
    await close(mirrored.imaginary.indexSelect(2, places), golden.reflect.imaginary, 2e-6);
  });

  it.each([
    [256, 64],
    [256, 100],
    [64, 32],
  ])("a sound comes back from its spectrum: windows of %d, %d apart", async (size, hop) => {
    const back = istft(stft(sound(), { size, hop }), { size, hop, samples: 2300 });
    await close(back, Array.from(await sound().narrow(1, 0, 2300).data(), Number), 5e-6);
  });

  it.each(golden.filters)("mel filters $args", async ({ args, values }) => {
    await close(melFilters(args), values, 2e-6);
  });

  const options = { sampleRate: RATE, size: 512, hop: 200, mels: 24 };
  it("mel spectrogram, decibels and cepstral coefficients", async () => {
    await close(melSpectrogram(sound(), options), golden.mel, 5e-6);
    await close(decibels(melSpectrogram(sound(), options)), golden.db, 1e-5);
    await close(mfcc(sound(), { ...options, coefficients: 13 }), golden.mfcc, 1e-5);
  });

  it("a batch is each sound by itself, channels are one sound of their mean", async () => {
    const both = mfcc(tensor([...tones, ...noise], [2, SAMPLES]), options);
    await close(
      both.narrow(0, 1, 1),
      Array.from(await mfcc(tensor(noise, [1, SAMPLES]), options).data(), Number),
      1e-5,
    );
    const mixed = soundTensor([Float32Array.from(tones), Float32Array.from(noise)]);
    await close(
      mixed,
      tones.map((value, i) => (value + noise[i]!) / 2),
      1e-6,
    );
  });
});

describe("spectral gating", () => {
  it.each(golden.gate)("has these samples: $args", async ({ args, values }) => {
    const gated = spectralGate(sound(), { ...args, noise: hum() });
    await close(
      gated
        .narrow(1, 0, values.length * 4)
        .reshape([values.length, 4])
        .narrow(1, 0, 1),
      values,
      1e-5,
    );
  });

  it("a tone under noise is heard better: at least 6 dB more signal to noise", async () => {
    // A second of a tone, and other noise than the one that the gate is told of.
    const draw = (seed: number) => {
      let state = seed;
      return () => {
        state = (state * 1664525 + 1013904223) % 2 ** 32;
        return (state / 2 ** 32) * 2 - 1;
      };
    };
    const [a, b] = [draw(1), draw(2)];
    const tone = list(RATE, (i) => 0.3 * Math.sin((2 * Math.PI * 500 * i) / RATE));
    const dirty = tone.map((value) => value + 0.2 * a());
    const quiet = tensor(
      list(RATE, () => 0.2 * b()),
      [1, RATE],
    );
    const cleaned = Array.from(
      await spectralGate(tensor(dirty, [1, RATE]), { sampleRate: RATE, noise: quiet, smoothHz: 30 }).data(),
      Number,
    );
    const ratio = (of: readonly number[]) => {
      const sums = tone.reduce(([s, n], value, i) => [s + value ** 2, n + (of[i]! - value) ** 2], [0, 0]);
      return 10 * Math.log10(sums[0]! / sums[1]!);
    };
    expect(ratio(cleaned)).toBeGreaterThan(ratio(dirty) + 6);
  });

  it("takes nothing away where the reduction is 0, and silence stays silence", async () => {
    const whole = spectralGate(sound(), { sampleRate: RATE, size: 256, reduction: 0 });
    await close(whole, Array.from(await sound().data(), Number), 5e-6);
    const silent = await spectralGate(tensor(new Float32Array(3000), [1, 3000]), { sampleRate: RATE }).data();
    expect(silent.every((value) => value === 0)).toBe(true);
  });
});

describe("wrong sounds", () => {
  it.each([
    [() => stft(tensor([1, 2, 3])), "expected sounds"],
    [() => stft(sound(), { size: 255 }), "size is 255"],
    [() => stft(tensor([[1, 2, 3]]), { size: 8, padding: "reflect" }), "more than 4 samples to reflect"],
    [() => melFilters({ sampleRate: 8000, highest: 5000 }), "within 0 and 4000 Hz"],
    [() => mfcc(sound(), { mels: 10, coefficients: 11 }), "11 coefficients of 10 bands"],
    [() => spectralGate(sound(), { sampleRate: 0 }), "a rate in Hz"],
    [() => soundTensor([]), "one at least"],
    [() => melSpectrogram(sound(), { mel: 3 } as object), "mel"],
  ])("are refused in one line: %#", (call, message) => {
    expect(call).toThrow(message);
  });
});

describe("resample", () => {
  const tone = (rate: number, samples: number) =>
    list(
      samples,
      (i) => 0.5 * Math.sin((2 * Math.PI * 440 * i) / rate) + 0.2 * Math.cos((2 * Math.PI * 130 * i) / rate),
    );

  it.each([
    [8000, 16000],
    [16000, 8000],
    [22050, 16000],
    [44100, 16000],
  ])("from %i to %i Hz keeps tones, and is torchaudio's sum", async (from, to) => {
    const samples = Math.floor(from / 20);
    const values = tone(from, samples);
    const out = resample(tensor([...values, ...values.toReversed()], [2, samples]), { from, to });
    const expected = Math.ceil((samples * to) / from);
    expect(out.shape).toEqual([2, expected]);
    const found = (await out.data()) as Float32Array;
    // torchaudio.functional.resample, written out for single samples in float64.
    const band = Math.min(from, to) * 0.99;
    const at = (place: number) =>
      values.reduce((sum, value, i) => {
        const t = (i / from - place / to) * band;
        if (Math.abs(t) >= 6) return sum;
        const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
        return sum + (value * sinc * Math.cos((Math.PI * t) / 12) ** 2 * band) / from;
      }, 0);
    for (let i = 0; i < expected; i += 7) expect(found[i]).toBeCloseTo(at(i), 4);
    // Inside, where the filter sees no edge, the sound is the same one.
    const same = tone(to, expected);
    for (let i = 40; i < expected - 40; i++) expect(Math.abs(found[i]! - same[i]!)).toBeLessThan(0.01);
  });

  it("at a lower rate has nothing of what that rate cannot hold, and refuses rates that are none", async () => {
    const high = list(800, (i) => Math.sin((2 * Math.PI * 3500 * i) / 16000));
    const low = (await resample(tensor(high, [1, 800]), { from: 16000, to: 4000 }).data()) as Float32Array;
    for (const value of low.subarray(20, 180)) expect(Math.abs(value)).toBeLessThan(0.02);
    const x = sound();
    expect(resample(x, { from: 8000, to: 8000 })).toBe(x);
    expect(() => resample(x, { from: 8000, to: 0 })).toThrow(/whole numbers above 0/);
    expect(() => resample(x, { from: 44101, to: 16000 })).toThrow(/common divisor of 1 only/);
  });
});
