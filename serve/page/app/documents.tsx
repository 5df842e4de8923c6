import { useEffect, useState } from "preact/hooks";
import type { Document, DocumentList, Explained, Passage } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { bytes, date, number, percent } from "../render/format.ts";
import { api } from "../state/api.ts";
import { upload } from "../state/documents.ts";
import { say } from "../state/history.ts";
import { Failure, Field, Form, Icon, IconButton, Loaded, Modal, Table } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { useLoaded } from "./use_loaded.ts";

const LOOK_AGAIN_MS = 700;
const isBusy = ({ state }: Document) => state !== "ready" && state !== "failed";

/** What answers are made from: files, how far they are read, their passages, and a box to try the search. */
export function Documents() {
  const { data, error, load } = useLoaded(() => api<DocumentList>("GET", "/api/documents?limit=200"));
  const [viewed, setViewed] = useState<Document | null>(null);
  useEffect(() => {
    if (!data?.documents.some(isBusy)) return;
    const timer = setTimeout(load, LOOK_AGAIN_MS);
    return () => clearTimeout(timer);
  }, [data]);
  const remove = async ({ id, name }: Document) => {
    await api("DELETE", `/api/documents/${id}`).then(
      () => say(t.documents.removed(name)),
      (problem: Error) => say(problem.message),
    );
    load();
  };
  return (
    <ScreenFrame title={t.screens.documents}>
      <DropZone done={load} />
      <Loaded data={data} error={error} retry={load}>
        {(list) =>
          list.documents.length === 0 ? (
            <div class="notice">
              <p>{t.documents.empty}</p>
            </div>
          ) : (
            <>
              <List of={list} view={setViewed} remove={(one) => void remove(one)} />
              <Try />
            </>
          )
        }
      </Loaded>
      {viewed && <Viewer document={viewed} close={() => setViewed(null)} />}
    </ScreenFrame>
  );
}

function DropZone({ done }: { done: () => void }) {
  const [over, setOver] = useState(false);
  const take = async (files: FileList | null | undefined) => {
    await upload(files ?? []);
    done();
  };
  return (
    <label
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        void take(event.dataTransfer?.files);
      }}
    >
      <Icon name="documents" />
      <span>{t.documents.drop}</span>
      <small>{t.documents.kinds}</small>
      <input
        type="file"
        multiple
        onChange={({ currentTarget: input }) => {
          void take(input.files).then(() => (input.value = ""));
        }}
      />
    </label>
  );
}

function List(props: {
  of: DocumentList;
  view: (document: Document) => void;
  remove: (document: Document) => void;
}) {
  const { documents, bytes: taken, limits } = props.of;
  return (
    <section>
      <p class="note">
        {t.documents.room(
          number(documents.length),
          number(limits.documents),
          bytes(taken),
          bytes(limits.allBytes),
        )}
      </p>
      <Table
        caption={t.screens.documents}
        head={[...t.documents.columns]}
        rows={documents.map((document) => [
          <button type="button" class="link clip" title={document.name} onClick={() => props.view(document)}>
            {document.name}
          </button>,
          <State of={document} />,
          bytes(document.bytes),
          date(document.created_at),
          <IconButton
            icon="bin"
            label={t.documents.remove(document.name)}
            onClick={() => props.remove(document)}
          />,
        ])}
      />
    </section>
  );
}

function State({ of }: { of: Document }) {
  const { state, reason, chunks_made, chunks_indexed, notes } = of;
  if (state === "failed") return <span class="error">{reason ?? t.documents.states.failed}</span>;
  if (state === "indexing") return <>{t.documents.indexing(chunks_indexed, chunks_made)}</>;
  if (state !== "ready") return <>{t.documents.states[state]}</>;
  return (
    <>
      {t.documents.passages(chunks_made)}
      {notes.map((note) => (
        <small key={note}> {note}</small>
      ))}
    </>
  );
}

const PAGE = 50;

function Viewer({ document, close }: { document: Document; close: () => void }) {
  const [count, setCount] = useState(PAGE);
  const path = `/api/documents/${document.id}`;
  const { data, error, load } = useLoaded(
    async () => (await api<{ chunks: Passage[] }>("GET", `${path}/chunks?limit=${count}`)).chunks,
    [count],
  );
  return (
    <Modal title={document.name} close={close}>
      <p class="row">
        <small>{t.documents.about(document.kind ?? "", document.pages)}</small>
        <span class="grow" />
        <a class="button" download href={`${path}/content`}>
          {t.documents.download}
        </a>
      </p>
      <Loaded data={data} error={error} retry={load}>
        {(passages) => (
          <ol class="passages">
            {passages.map((passage) => (
              <li key={passage.id}>
                <small>{t.documents.place(passage.ordinal + 1, passage.page, passage.heading)}</small>
                <p>{passage.text}</p>
              </li>
            ))}
          </ol>
        )}
      </Loaded>
      {data && data.length === count && (
        <button type="button" onClick={() => setCount(count + PAGE)}>
          {t.documents.more}
        </button>
      )}
    </Modal>
  );
}

/** Shows what the search finds, and what each of its stages gives. */
function Try() {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<Explained | null>(null);
  const [error, setError] = useState<string | null>(null);
  const run = () =>
    api<Explained>("POST", "/api/retrieve", { query }).then(
      (result) => {
        setFound(result);
        setError(null);
      },
      (problem: Error) => setError(problem.message),
    );
  const score = (value: number | null) => (value === null ? "–" : value.toFixed(3));
  return (
    <section>
      <h2>{t.documents.try}</h2>
      <Form class="row form-row" submit={run}>
        <Field label={t.documents.question}>
          <input value={query} required onInput={(event) => setQuery(event.currentTarget.value)} />
        </Field>
        <button type="submit">{t.documents.search}</button>
      </Form>
      <Failure of={error} />
      {found && (
        <>
          <p role="status">{t.documents.verdict(found.answered, percent(found.coverage), found.ranker)}</p>
          <Table
            caption={t.documents.try}
            head={[...t.documents.foundColumns]}
            rows={found.passages.map(({ name, page, text, score: total, stages }) => [
              page === null ? name : `${name}, ${t.sources.page(page)}`,
              <q>{text.slice(0, 200)}</q>,
              score(total),
              score(stages.bm25),
              score(stages.rm3),
              score(stages.lsa),
              score(stages.encoder),
            ])}
          />
        </>
      )}
    </section>
  );
}
