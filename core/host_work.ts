/** Host work of the step that is being traced. */
let traced: (() => void)[] | null = null;

/**
 * Runs `work` on the host: at once or, inside of a compiled step, before each of its runs. For what changes from run to
 * run and is no argument, such as a counter or a learning rate: it writes them into captured tensors.
 */
export function beforeEachRun(work: () => void): void {
  if (traced) traced.push(work);
  else work();
}

/** Collects the host work of the step that is traced from now on; null ends that. */
export function collectHostWork(into: (() => void)[] | null): void {
  traced = into;
}
