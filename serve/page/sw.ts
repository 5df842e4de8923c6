// The service worker: the page opens without the server, with what was read last. Writes are never kept, nor answered from here.

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

/** Where the page is, put in by the build, its files, and a name that changes with them. */
declare const PAGE: string;
declare const SHELL: string[];
declare const VERSION: string;

const worker = self as unknown as Worker;
/** Two pages of this server have a worker each. */
const shells = PAGE === "/" ? "kiln-shell-" : "kiln-notices-";
const shell = shells + VERSION;
const data = "kiln-data";
const conversations = 50;
const kept = /^\/api\/(?:me|models|conversations(?:\/[^/]+(?:\/messages)?)?)$/;
const isMessages = (url: string) => url.includes("/messages");

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin) return;
  if (event.request.mode === "navigate" && url.pathname === PAGE) event.respondWith(page(event.request));
  else if (url.pathname.startsWith("/assets/")) event.respondWith(asset(event.request));
  // Pages above the first are not kept: they would not fit together later.
  else if (kept.test(url.pathname) && !url.searchParams.has("before")) event.respondWith(read(event));
});

async function install(): Promise<void> {
  const cache = await caches.open(shell);
  await cache.addAll(SHELL);
  await worker.skipWaiting();
}

async function activate(): Promise<void> {
  for (const name of await caches.keys())
    if (name.startsWith(shells) && name !== shell) await caches.delete(name);
  await worker.clients.claim();
}

/** The newest page, or the kept one. */
async function page(request: Request): Promise<Response> {
  return fetch(request).catch(async () => (await caches.match(PAGE)) ?? Response.error());
}

/** An asset's name changes with its content, and it is the same for all who ask: a script of a page names an origin, this did not. */
async function asset(request: Request): Promise<Response> {
  return (await caches.match(request, { ignoreVary: true })) ?? fetch(request);
}

/** What the server says now, or said last. */
async function read(event: FetchEvent): Promise<Response> {
  const { request } = event;
  let response: Response;
  try {
    response = await fetch(request);
  } catch {
    const cache = await caches.open(data);
    return (await cache.match(request)) ?? Response.error();
  }
  // Somebody else may sign in next.
  if (response.status === 401) event.waitUntil(caches.delete(data));
  if (response.ok) event.waitUntil(keep(request, response.clone()));
  return response;
}

async function keep(request: Request, response: Response): Promise<void> {
  const cache = await caches.open(data);
  // Put anew, so that the oldest of them are those that were not read for longest.
  await cache.delete(request);
  await cache.put(request, response);
  const all = (await cache.keys()).filter(({ url }) => isMessages(url));
  for (const old of all.slice(0, -conversations)) await cache.delete(old);
}
