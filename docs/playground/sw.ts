// The service worker: after the first visit the page opens without the network.

/** What a service worker has beside a page; TypeScript's own types of it exclude the page's. */
interface Worker {
  addEventListener(type: "install" | "activate", on: (event: ExtendableEvent) => void): void;
  addEventListener(type: "fetch", on: (event: FetchEvent) => void): void;
  skipWaiting(): Promise<void>;
  clients: { claim(): Promise<void> };
}
interface ExtendableEvent {
  waitUntil(work: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  request: Request;
  respondWith(response: Promise<Response>): void;
}

/** The files of the page, put in by the build, and a name that changes with them. */
declare const SHELL: string[];
declare const VERSION: string;

const worker = self as unknown as Worker;
const prefix = "kiln-playground-";
const shell = prefix + VERSION;

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(new URL("./", location.href).href))
    event.respondWith(request.mode === "navigate" ? page(request) : asset(request));
});

async function install(): Promise<void> {
  await (await caches.open(shell)).addAll(SHELL);
  await worker.skipWaiting();
}

async function activate(): Promise<void> {
  for (const name of await caches.keys())
    if (name.startsWith(prefix) && name !== shell) await caches.delete(name);
  await worker.clients.claim();
}

/** The newest page, or the kept one. */
function page(request: Request): Promise<Response> {
  return fetch(request).catch(async () => (await caches.match("./")) ?? Response.error());
}

/** An asset's name changes with its content. */
async function asset(request: Request): Promise<Response> {
  return (await caches.match(request)) ?? fetch(request);
}
