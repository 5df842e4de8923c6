/** Tells the language of a text: its ISO 639-3 code, or `und` where it has fewer than 24 letters or it cannot be told. */
export type TellLanguage = (text: string) => string;

const fewest = 24;

/** By trigrams (franc), over the 82 languages with most speakers. Loaded when needed. */
export async function languageTeller(): Promise<TellLanguage> {
  const { franc } = await import("franc-min");
  return (text) => {
    const sample = text.slice(0, 2048);
    return (sample.match(/\p{L}/gu)?.length ?? 0) < fewest ? "und" : franc(sample);
  };
}
