/** The element with an id, which index.html has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** A new element with text or children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const count = (value: number) => value.toLocaleString("en");

/** Shows an error as one line, or with "" hides the last one. */
export function complain(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  const line = byId("problem");
  line.textContent = text && text[0].toUpperCase() + text.slice(1);
  line.hidden = text === "";
}

/** Does something a person asked for: the last complaint goes, and what fails is shown. */
export function attempt(work: () => Promise<unknown>): void {
  complain("");
  work().catch(complain);
}

/** Offers bytes as a download. */
export function download(name: string, bytes: Uint8Array<ArrayBuffer>): void {
  const url = URL.createObjectURL(new Blob([bytes], { type: "application/zip" }));
  make("a", { href: url, download: name }).click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Lets files be dropped on an element: those of a folder, too. */
export function dropZone(element: HTMLElement, onFiles: (files: File[]) => void): void {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    const items = [...(event.dataTransfer?.items ?? [])];
    const entries = items.map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
    const files = [...(event.dataTransfer?.files ?? [])];
    void Promise.all(entries.map(filesOf)).then((found) => onFiles(found.length > 0 ? found.flat() : files));
  });
}

/** The file of an entry, or the files of a folder. */
async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile)
    return [
      await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)),
    ];
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const entries: FileSystemEntry[] = [];
  for (;;) {
    // A reader gives a hundred at a time.
    const more = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (more.length === 0) break;
    entries.push(...more);
  }
  return (await Promise.all(entries.map(filesOf))).flat();
}
