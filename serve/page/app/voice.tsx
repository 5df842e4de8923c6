import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../messages.screens.en.ts";
import { IconButton } from "./parts.tsx";

/** What browsers give of the Web Speech interface, under its own name or a prefixed one. */
interface Recognition {
  lang: string;
  onresult: (event: { results: ArrayLike<ArrayLike<{ transcript: string }>> }) => void;
  onerror: (event: { error: string }) => void;
  onend: () => void;
  start(): void;
  stop(): void;
  abort(): void;
}
type Recognizers = Partial<Record<"SpeechRecognition" | "webkitSpeechRecognition", new () => Recognition>>;

/** Writes what is said: a browser's own recognition, which asks for the microphone first. */
export function Dictate({ hear }: { hear: (said: string) => void }) {
  const [now, setNow] = useState<Recognition | null>(null);
  const [fault, setFault] = useState("");
  const latest = useRef(hear);
  latest.current = hear;
  useEffect(() => () => now?.abort(), [now]);
  const begin = () => {
    const { SpeechRecognition, webkitSpeechRecognition } = window as Recognizers;
    const made = new (SpeechRecognition ?? webkitSpeechRecognition)!();
    made.lang = navigator.language;
    made.onresult = ({ results }) =>
      latest.current(Array.from(results, (one) => one[0]?.transcript.trim() ?? "").join(" "));
    made.onerror = ({ error }) => error !== "aborted" && setFault(t.voice.fault(error));
    made.onend = () => setNow(null);
    setFault("");
    made.start();
    setNow(made);
  };
  return (
    <>
      <IconButton
        icon={now ? "stop" : "microphone"}
        label={now ? t.voice.stopDictating : t.voice.dictate}
        aria-pressed={now !== null}
        onClick={() => (now ? now.stop() : begin())}
      />
      {fault && (
        <small class="error" role="alert">
          {fault}
        </small>
      )}
    </>
  );
}

/** Reads the text of a message aloud, by a voice of the browser's own; sentence by sentence, since long texts are cut off. */
export function ReadAloud({ id }: { id: string }) {
  const [reading, setReading] = useState(false);
  // Before the button changes: a later end could be that of what is read next.
  useLayoutEffect(() => () => void (reading && speechSynthesis.cancel()), [reading]);
  const begin = () => {
    const shown = document.querySelector(`[data-message="${CSS.escape(id)}"] .text`);
    const sentences = (shown?.textContent ?? "").split(/(?<=[.!?。！？])\s+|\n+/).filter((one) => one.trim());
    // One text at a time: another's is ended.
    speechSynthesis.cancel();
    for (const [i, sentence] of sentences.entries()) {
      const said = new SpeechSynthesisUtterance(sentence);
      said.onerror = () => setReading(false);
      if (i === sentences.length - 1) said.onend = () => setReading(false);
      speechSynthesis.speak(said);
    }
    setReading(sentences.length > 0);
  };
  return (
    <IconButton
      icon={reading ? "stop" : "speaker"}
      label={reading ? t.voice.stopReading : t.voice.readAloud}
      aria-pressed={reading}
      onClick={() => (reading ? setReading(false) : begin())}
    />
  );
}
