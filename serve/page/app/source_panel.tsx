import { useEffect, useRef } from "preact/hooks";
import type { Citation, Passage } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { api } from "../state/api.ts";
import { IconButton, Loaded } from "./parts.tsx";
import { sourceShown } from "./shell.ts";
import { useLoaded } from "./use_loaded.ts";

/** The passage that an answer cites, marked, between those around it. */
export function SourcePanel({ of }: { of: Citation }) {
  const { document_id, ordinal } = of;
  const { data, error, load } = useLoaded(async () => {
    const after = ordinal > 1 ? `&after=${ordinal - 2}` : "";
    const limit = ordinal > 1 ? 3 : ordinal + 2;
    const path = `/api/documents/${document_id}/chunks?limit=${limit}${after}`;
    return (await api<{ chunks: Passage[] }>("GET", path)).chunks;
  }, [document_id, ordinal]);
  return (
    <aside class="panel" aria-label={t.sources.title}>
      <header>
        <h2>
          {of.n}. {of.name}
        </h2>
        <IconButton icon="close" label={t.app.close} onClick={() => (sourceShown.value = null)} />
      </header>
      {of.page !== null && <p class="note">{t.sources.page(of.page)}</p>}
      <Loaded data={data} error={error} retry={load}>
        {(passages) => (
          <div class="passages">
            {passages.map((passage) => (
              <Around key={passage.id} passage={passage} isCited={passage.ordinal === ordinal} />
            ))}
          </div>
        )}
      </Loaded>
    </aside>
  );
}

function Around({ passage, isCited }: { passage: Passage; isCited: boolean }) {
  const element = useRef<HTMLParagraphElement>(null);
  useEffect(() => {
    if (isCited) element.current?.scrollIntoView({ block: "center" });
  }, [isCited, passage.id]);
  return <p ref={element}>{isCited ? <mark>{passage.text}</mark> : passage.text}</p>;
}
