import { useEffect, useState } from "preact/hooks";
import type { Alternatives } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { number, percent } from "../render/format.ts";
import { api } from "../state/api.ts";
import { Loaded, Modal } from "./parts.tsx";
import { useLoaded } from "./use_loaded.ts";

/** Each token of an answer with what the model held for likely in its place. */
export function Why({ id, close }: { id: string; close: () => void }) {
  const { data, error, load } = useLoaded(
    () => api<Alternatives>("GET", `/api/messages/${id}/alternatives?top=5`),
    [id],
  );
  return (
    <Modal title={t.why.title} close={close} class="why">
      <Loaded data={data} error={error} retry={load}>
        {(found) => <Tokens found={found} />}
      </Loaded>
    </Modal>
  );
}

/** Spaces and line ends of a token made visible. */
const visible = (text: string) => text.replaceAll("\n", "⏎").replaceAll(" ", "␣");

function Tokens({ found: { tokens } }: { found: Alternatives }) {
  const [at, setAt] = useState(0);
  const chosen = tokens[at];
  useEffect(() => setAt(0), [tokens]);
  if (!chosen) return <p>{t.why.none}</p>;
  return (
    <>
      <p class="note">{t.why.how}</p>
      <div class="tokens" tabIndex={0} role="group" aria-label={t.why.tokens}>
        {tokens.map(({ text, probability }, index) => (
          <button
            key={index}
            type="button"
            aria-pressed={index === at}
            style={{ "--doubt": `${Math.round((1 - probability) * 100)}%` }}
            onClick={() => setAt(index)}
          >
            {visible(text)}
          </button>
        ))}
      </div>
      <p role="status">
        {t.why.token(visible(chosen.text), percent(chosen.probability), number(chosen.entropy))}
      </p>
      <ol class="bars">
        {chosen.top.map(({ text, probability }) => (
          <li key={text}>
            <code>{visible(text)}</code>
            <meter min={0} max={1} value={probability} aria-label={visible(text)} />
            <span>{percent(probability)}</span>
          </li>
        ))}
      </ol>
    </>
  );
}
