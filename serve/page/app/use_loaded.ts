import { useCallback, useEffect, useState } from "preact/hooks";

/** What a screen loads when it opens, and again when one of `inputs` changes or `load` is called. */
export function useLoaded<T>(fetchIt: () => Promise<T>, inputs: readonly unknown[] = []) {
  const [data, setData] = useState<T | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
    let over = false;
    fetchIt().then(
      (found) => {
        if (over) return;
        setData(found);
        setError(null);
      },
      (problem: Error) => !over && setError(problem.message),
    );
    return () => {
      over = true;
    };
  }, [...inputs, round]);
  const load = useCallback(() => {
    setError(null);
    setRound((count) => count + 1);
  }, []);
  return { data, error, load, setData };
}
