const kinds = ["validation", "internal", "out-of-memory"] as const;

/** Runs the body; false when it threw or WebGPU reported something meanwhile, which then reaches nobody else. */
export async function withoutErrors(gpu: GPUDevice, body: () => Promise<void>): Promise<boolean> {
  for (const kind of kinds) gpu.pushErrorScope(kind);
  let threw = false;
  await body().catch(() => {
    threw = true;
  });
  const errors = await Promise.all(kinds.map(() => gpu.popErrorScope()));
  return !threw && errors.every((error) => error === null);
}
