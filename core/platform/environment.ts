/** An environment variable; undefined when it is not set, and in a browser, where there are none. */
export function environmentVariable(name: string): string | undefined {
  return globalThis.process?.env?.[name];
}
