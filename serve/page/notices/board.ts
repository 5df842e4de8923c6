import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import type { Me, Notice } from "../../app/protocol.ts";
import { type NoticeClient, NoticeError } from "./client.ts";
import { newId, onReturn, openClient, openShelf, signIn } from "./device.ts";
import { Outbox, type Waiting } from "./outbox.ts";

/** How often the board is read again while it is looked at. */
const LOOK_MS = 20_000;
const PAGE = 50;

/** The board as it was read last. */
interface Kept {
  readonly me: Me;
  readonly notices: readonly Notice[];
  /** Whether there are earlier ones. */
  readonly more: boolean;
}

export interface Board {
  /** null: not read yet, and `isOnline` says whether it can be. */
  readonly kept: Kept | null;
  readonly waiting: readonly Waiting[];
  readonly isOnline: boolean;
  readonly needsLogin: boolean;
  /** What the server refused. */
  readonly said: string | null;
}

/** What a person wrote, to be posted. */
export type Draft = Pick<Waiting, "title" | "body" | "pinned" | "files">;

const empty: Board = { kept: null, waiting: [], isOnline: true, needsLogin: false, said: null };
const shelf = openShelf<Kept>("kept");
const outbox = new Outbox(openShelf<Waiting>("outbox"));

/** Reads as many notices as are shown. */
async function read(client: NoticeClient, me: Me, wanted: number): Promise<Kept> {
  let { notices, next } = await client.list();
  while (next !== null && notices.length < wanted) {
    const page = await client.list(next);
    notices = [...notices, ...page.notices];
    next = page.next;
  }
  return { me, notices, more: next !== null };
}

/** Work that is done once more where it is asked for meanwhile, and never twice at a time. */
function oneAtATime(work: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | null = null;
  let again = false;
  return () => {
    again = true;
    running ??= (async () => {
      while (again) {
        again = false;
        await work();
      }
    })().finally(() => {
      running = null;
    });
    return running;
  };
}

/** The board, what waits to be posted to it, and what a person does there. */
export function useBoard() {
  const [board, setBoard] = useState<Board>(empty);
  const wanted = useRef(PAGE);
  const set = useCallback((part: Partial<Board>) => setBoard((before) => ({ ...before, ...part })), []);
  const refresh = useMemo(
    () =>
      oneAtATime(async () => {
        const client = await openClient();
        try {
          const me = await client.me();
          // Sent before it is read, so that nothing is shown both as posted and as waiting.
          const isOnline = await outbox.send(client, me.id);
          if (!isOnline) return set({ isOnline });
          const kept = await read(client, me, wanted.current);
          set({ kept, isOnline, needsLogin: false, waiting: await outbox.of(me.id) });
          await shelf.put("board", kept);
        } catch (error) {
          if (!(error instanceof NoticeError)) throw error;
          if (error.status === 401) {
            await shelf.remove("board");
            // Why a token was refused is still said.
            set({ kept: null, waiting: [], isOnline: true, needsLogin: true });
          } else set({ isOnline: false });
        }
      }),
    [set],
  );
  useEffect(() => {
    void begin(set).then(refresh);
    const timer = setInterval(() => void refresh(), LOOK_MS);
    const ended = onReturn(() => void refresh());
    return () => {
      clearInterval(timer);
      ended();
    };
  }, [refresh, set]);
  /** Does something that the server must be there for, and says why it could not be done. @returns whether it was */
  const attempt = async (work: (client: NoticeClient) => Promise<unknown>): Promise<boolean> => {
    const why = await openClient()
      .then(work)
      .then(
        () => null,
        (error: Error) => error.message,
      );
    set({ said: why });
    await refresh();
    return why === null;
  };
  const author = board.kept?.me.id;
  return {
    board,
    refresh,
    attempt,
    more: () => {
      wanted.current += PAGE;
      return refresh();
    },
    post: async (draft: Draft) => {
      const notice = {
        ...draft,
        request_id: newId(),
        author: author!,
        written_at: Date.now(),
        refused: null,
      };
      await outbox.add(notice);
      set({ waiting: await outbox.of(author!) });
      await refresh();
    },
    discard: async (requestId: string) => {
      await outbox.discard(requestId);
      set({ waiting: await outbox.of(author!) });
    },
    signIn: (token: string) => attempt(() => signIn(token)),
  };
}

/** Shows what this device has, before the server is asked. */
async function begin(set: (part: Partial<Board>) => void): Promise<void> {
  const [kept] = await shelf.all();
  if (kept !== undefined) set({ kept, waiting: await outbox.of(kept.me.id) });
}
