import { t } from "../messages.en.ts";
import type { Shown } from "../state/chat.ts";
import { sourceShown } from "./shell.ts";

/** What an answer was made from, and whether all of it was. */
export function Sources({ of: { citations, unsupported } }: { of: Shown }) {
  if (citations.length === 0) return null;
  return (
    <>
      {unsupported && <p class="note">{t.sources.underlined}</p>}
      <ul class="sources" aria-label={t.sources.title}>
        {citations.map((citation) => (
          <li key={citation.n}>
            <button
              type="button"
              aria-pressed={sourceShown.value === citation}
              onClick={() => (sourceShown.value = citation)}
            >
              <b>{citation.n}</b>
              <span class="clip">{citation.name}</span>
              {citation.page !== null && <small>{t.sources.page(citation.page)}</small>}
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}
