/** One line on standard error for a failure whose details clients do not see; with DEBUG its stack. */
export function logError(error: unknown): void {
  const text = error instanceof Error ? (process.env.DEBUG ? error.stack : error.message) : String(error);
  process.stderr.write(`serve: ${text}\n`);
}
