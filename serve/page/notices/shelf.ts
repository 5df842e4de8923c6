/** Values that this device keeps, by their names. */
export interface Shelf<T> {
  all(): Promise<T[]>;
  put(name: string, value: T): Promise<void>;
  remove(name: string): Promise<void>;
}

/** A shelf for as long as the app runs: where a device keeps nothing. */
export function memoryShelf<T>(): Shelf<T> {
  const values = new Map<string, T>();
  return {
    all: async () => [...values.values()],
    put: async (name, value) => void values.set(name, value),
    remove: async (name) => void values.delete(name),
  };
}
