import { useEffect, useState } from "preact/hooks";
import type { SearchResult } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { date } from "../render/format.ts";
import { api } from "../state/api.ts";
import { conversations } from "../state/history.ts";
import { go } from "../state/route.ts";
import { Modal } from "./parts.tsx";
import { dialog, sidebarOpen } from "./shell.ts";

type Hit = SearchResult["hits"][number];

/** The last conversations, before anything is typed. */
const recent = (): Hit[] =>
  (conversations.value ?? []).slice(0, 8).map(({ id, title, updated_at }) => ({
    ...{ conversation_id: id, title, message_id: null, excerpt: "", created_at: updated_at },
  }));

function useHits(query: string) {
  const [found, setFound] = useState<{ hits: Hit[]; error: string | null } | null>(null);
  useEffect(() => {
    let over = false;
    setFound(query ? null : { hits: recent(), error: null });
    const timer = setTimeout(async () => {
      if (!query) return;
      const result = await api<SearchResult>("GET", `/api/search?q=${encodeURIComponent(query)}`).then(
        ({ hits }) => ({ hits, error: null }),
        (error: Error) => ({ hits: [], error: error.message }),
      );
      if (!over) setFound(result);
    }, 120);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [query]);
  return found;
}

export function SearchDialog() {
  const [query, setQuery] = useState("");
  const [chosen, setChosen] = useState(0);
  const found = useHits(query.trim());
  const hits = found?.hits ?? [];
  const close = () => {
    dialog.value = null;
  };
  const openHit = (hit: Hit | undefined) => {
    if (!hit) return;
    close();
    sidebarOpen.value = false;
    go("chat", hit.conversation_id);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // A search field would only clear itself.
    if (event.key === "Escape") close();
    if (event.key === "Enter") openHit(hits[chosen]);
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    setChosen(Math.max(0, Math.min(hits.length - 1, chosen + step)));
  };
  return (
    <Modal title={t.search.title} close={close} class="search">
      <input
        type="search"
        list={undefined}
        role="combobox"
        aria-expanded={hits.length > 0}
        aria-controls="hits"
        aria-activedescendant={hits.length > 0 ? `hit-${chosen}` : undefined}
        aria-label={t.search.field}
        placeholder={t.search.field}
        onInput={(event) => {
          setQuery(event.currentTarget.value);
          setChosen(0);
        }}
        onKeyDown={onKeyDown}
      />
      <Hits hits={hits} chosen={chosen} open={openHit} />
      <p class="note" role="status">
        {found?.error ?? (query.trim() && found && hits.length === 0 ? t.search.none : "")}
      </p>
    </Modal>
  );
}

function Hits({ hits, chosen, open }: { hits: Hit[]; chosen: number; open: (hit: Hit) => void }) {
  return (
    <div id="hits" role="listbox" aria-label={t.search.title}>
      {hits.map((hit, index) => (
        <div
          key={`${hit.conversation_id} ${hit.message_id}`}
          id={`hit-${index}`}
          role="option"
          tabIndex={-1}
          aria-selected={index === chosen}
          ref={(element) => {
            if (index === chosen) element?.scrollIntoView({ block: "nearest" });
          }}
          onClick={() => open(hit)}
        >
          <span class="clip">{hit.title ?? t.chat.untitled}</span>
          <small>{date(hit.created_at)}</small>
          {hit.excerpt && <p>{hit.excerpt}</p>}
        </div>
      ))}
    </div>
  );
}
