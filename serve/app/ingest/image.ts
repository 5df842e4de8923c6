import { createRequire } from "node:module";
import path from "node:path";
import { type Extracted, parser, Unreadable } from "./extracted.ts";
import type { ReadPicture } from "./pdf.ts";
import { joined } from "./prose.ts";

/** Pixels that are unpacked: more would fill the memory. */
const MOST_PIXELS = 40e6;
/** Below this certainty, in percent, what was read is noise. */
const LEAST_CONFIDENCE = 40;

/** A picture's measures and, where OCR is installed, the words in it. */
export async function image(bytes: Uint8Array): Promise<Extracted> {
  const { default: sharp } = await parser("sharp", () => import("sharp"));
  try {
    const picture = sharp(bytes, { limitInputPixels: MOST_PIXELS, failOn: "error" }).rotate();
    const { width, height, format } = await sharp(bytes, { limitInputPixels: MOST_PIXELS }).metadata();
    const upright = await picture.flatten({ background: "white" }).png().toBuffer();
    const { text, note } = await words(upright);
    return {
      blocks: text === "" ? [] : [{ text, kind: "prose" }],
      notes: note === undefined ? [] : [note],
      facts: { width, height, format },
    };
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    const { message } = error as Error;
    throw new Unreadable(
      /pixel limit/.test(message)
        ? `the picture has more than ${MOST_PIXELS / 1e6} million pixels: make it smaller`
        : `the picture is damaged: ${message}`,
    );
  }
}

/** Reads a picture that a document holds. */
export const readPicture: ReadPicture = async ({ data, width, height, channels }) => {
  const { default: sharp } = await parser("sharp", () => import("sharp"));
  const raw = { width, height, channels: channels as 1 | 3 | 4 };
  const { text } = await words(await sharp(data, { raw, limitInputPixels: MOST_PIXELS }).png().toBuffer());
  return text;
};

/** The words in a PNG by tesseract.js, offline: its language data comes from npm. */
async function words(png: Buffer): Promise<{ text: string; note?: string }> {
  const require = createRequire(import.meta.url);
  let langPath: string;
  try {
    langPath = path.join(
      path.dirname(require.resolve("@tesseract.js-data/eng/package.json")),
      "4.0.0_best_int",
    );
  } catch {
    return {
      text: "",
      note: "words in pictures are read by tesseract.js: npm install tesseract.js @tesseract.js-data/eng",
    };
  }
  const { createWorker, OEM } = await parser("tesseract.js", () => import("tesseract.js"));
  const worker = await createWorker("eng", OEM.LSTM_ONLY, { langPath, cacheMethod: "none", gzip: true });
  try {
    const { data } = await worker.recognize(png);
    if (data.confidence < LEAST_CONFIDENCE)
      return { text: "", note: "no words could be read in the picture" };
    return {
      text: data.text
        .split(/\n\s*\n/)
        .map((part) => joined(part.split("\n")))
        .filter((part) => part !== "")
        .join("\n\n"),
    };
  } finally {
    await worker.terminate();
  }
}
