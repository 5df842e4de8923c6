import { type Extracted, parser, Unreadable } from "./extracted.ts";

/** Sound as samples of -1 to 1, a list each channel. */
export interface Sound {
  readonly channels: readonly Float32Array[];
  readonly sampleRate: number;
}

const MOST_SECONDS = 2 * 3600;

/** A sound's length and rate. Words in it are read by a transcription provider only. */
export async function audio(bytes: Uint8Array): Promise<Extracted> {
  const { channels, sampleRate } = await decodeSound(bytes);
  const seconds = channels[0].length / sampleRate;
  return {
    blocks: [],
    notes: ["speech is not transcribed here: give its text as a file beside it"],
    facts: { seconds, sample_rate: sampleRate, channels: channels.length },
  };
}

/** Decodes WAV, MP3 and FLAC. @throws Unreadable. */
export async function decodeSound(bytes: Uint8Array): Promise<Sound> {
  const sound = await decoded(bytes);
  if (!sound.channels[0]?.length) throw new Unreadable("the sound has no samples");
  if (sound.channels[0].length > MOST_SECONDS * sound.sampleRate)
    throw new Unreadable("the sound is longer than 2 hours: cut it into parts");
  return sound;
}

async function decoded(bytes: Uint8Array): Promise<Sound> {
  const head = Buffer.from(bytes.subarray(0, 4)).toString("latin1");
  if (head === "RIFF") return wav(bytes);
  const made =
    head === "fLaC"
      ? new (
          await parser("@wasm-audio-decoders/flac", () => import("@wasm-audio-decoders/flac"))
        ).FLACDecoder()
      : new (await parser("mpg123-decoder", () => import("mpg123-decoder"))).MPEGDecoder();
  await made.ready;
  try {
    const read = "decodeFile" in made ? await made.decodeFile(bytes) : made.decode(bytes);
    if (read.samplesDecoded === 0)
      throw new Unreadable("the sound is damaged: nothing of it could be decoded; save it again");
    return { channels: read.channelData, sampleRate: read.sampleRate };
  } finally {
    made.free();
  }
}

/** RIFF WAVE with PCM of 8 to 32 bits or floats (Microsoft's Multimedia Programming Interface 1.0, and its extensible form). */
function wav(bytes: Uint8Array): Sound {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let format: { code: number; channels: number; rate: number; bits: number } | null = null;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const id = Buffer.from(bytes.subarray(at, at + 4)).toString("latin1");
    const size = view.getUint32(at + 4, true);
    const start = at + 8;
    if (id === "fmt " && start + 16 <= bytes.length) {
      const code = view.getUint16(start, true);
      const inner =
        code === 0xfffe && size >= 26 && start + 26 <= bytes.length ? view.getUint16(start + 24, true) : code;
      format = {
        code: inner,
        channels: view.getUint16(start + 2, true),
        rate: view.getUint32(start + 4, true),
        bits: view.getUint16(start + 14, true),
      };
    } else if (id === "data") {
      if (format === null) break;
      return samples(view, start, Math.min(size, bytes.length - start), format);
    }
    at = start + size + (size & 1);
  }
  throw new Unreadable("the sound is damaged: it has no format or no samples; save it again");
}

function samples(
  view: DataView,
  start: number,
  size: number,
  format: { code: number; channels: number; rate: number; bits: number },
): Sound {
  const { code, channels, rate, bits } = format;
  const readers: Record<string, (at: number) => number> = {
    "1/8": (at) => (view.getUint8(at) - 128) / 128,
    "1/16": (at) => view.getInt16(at, true) / 2 ** 15,
    "1/24": (at) => (view.getUint8(at) | (view.getInt16(at + 1, true) << 8)) / 2 ** 23,
    "1/32": (at) => view.getInt32(at, true) / 2 ** 31,
    "3/32": (at) => view.getFloat32(at, true),
    "3/64": (at) => view.getFloat64(at, true),
  };
  const read = readers[`${code}/${bits}`];
  if (!read || channels < 1 || channels > 32 || rate === 0)
    throw new Unreadable(
      `sound of format ${code} with ${bits} bits and ${channels} channels is not read: save it as PCM of 16 bits`,
    );
  const width = bits / 8;
  const frames = Math.floor(size / (width * channels));
  const made = Array.from({ length: channels }, () => new Float32Array(frames));
  for (let frame = 0, at = start; frame < frames; frame++)
    for (let channel = 0; channel < channels; channel++, at += width) made[channel][frame] = read(at);
  return { channels: made, sampleRate: rate };
}
