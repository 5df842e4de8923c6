import { useEffect, useState } from "preact/hooks";
import type { JobEvent, JobEvents, JobInfo, JobInfos } from "../../app/protocol.ts";
import { api } from "../state/api.ts";
import { watchJobs } from "../state/chat.ts";
import { linkState } from "../state/link.ts";
import { useLoaded } from "./use_loaded.ts";

/** Between looks at jobs that are not over, where no socket tells of them. */
const LOOK_MS = 1000;
/** Events of one answer. */
const MOST = 200;

export const isOpen = ({ state }: JobInfo): boolean => state === "queued" || state === "running";

const isTold = (): boolean => linkState.value.state === "online" && linkState.value.by === "socket";

/** The user's fine-tunes, the newest first, as they go on. */
export function useJobs() {
  const { data, error, load } = useLoaded(() => api<JobInfos>("GET", "/api/jobs?kind=finetune"));
  /** What was told since the connection began is newer than any list. */
  const [told, setTold] = useState<readonly JobInfo[]>([]);
  useEffect(
    () =>
      watchJobs((update) => {
        if (update === null) {
          setTold([]);
          load();
        } else if (update.job.kind === "finetune")
          setTold((before) => [update.job, ...before.filter(({ id }) => id !== update.job.id)]);
      }),
    [],
  );
  const jobs =
    data && [...told, ...data.jobs.filter(({ id }) => !told.some((job) => job.id === id))].sort(newestFirst);
  const looks = !isTold() && (jobs?.some(isOpen) ?? false);
  useEffect(() => {
    if (!looks) return;
    const timer = setTimeout(load, LOOK_MS);
    return () => clearTimeout(timer);
  }, [looks, data, error]);
  return { jobs, error, load };
}

const newestFirst = (a: JobInfo, b: JobInfo) => (a.id < b.id ? 1 : -1);

/** What was told of a job, and goes on to be told while it is not over. */
export function useEvents(id: string, going: boolean): JobEvent[] {
  const [events, setEvents] = useState<JobEvent[]>([]);
  const looks = going && !isTold();
  useEffect(() => {
    let over = false;
    let known: JobEvent[] = [];
    const last = () => known.at(-1)?.seq ?? 0;
    const add = (more: readonly JobEvent[]) => {
      // Two looks may have been on their way at once.
      const fresh = more.filter(({ seq }) => seq > last());
      if (over || fresh.length === 0) return;
      known = [...known, ...fresh];
      setEvents(known);
    };
    const look = async (): Promise<void> => {
      const path = `/api/jobs/${id}/events?limit=${MOST}&after=${last()}`;
      const found = await api<JobEvents>("GET", path).catch(() => ({ events: [] }));
      add(found.events);
      if (found.events.length === MOST && !over) return look();
    };
    void look();
    const unwatch = watchJobs((update) => {
      if (update !== null && update.job.id !== id) return;
      const isNext = update !== null && update.seq - update.events.length <= last();
      if (isNext) add(update.events);
      else void look();
    });
    const timer = looks ? setInterval(() => void look(), LOOK_MS) : undefined;
    return () => {
      over = true;
      unwatch();
      clearInterval(timer);
    };
  }, [id, looks]);
  return events;
}
