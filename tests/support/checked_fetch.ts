import { checkAnswer, checkEvent, checkRequest } from "./openai_schemas.ts";

/**
 * `fetch` for the clients of tests: requests that are accepted, and what is answered, must be as OpenAI's schemas say. The
 * events of a stream are checked as they come, so that a client which leaves has seen sound ones.
 */
export const checkedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, init);
  const { pathname } = new URL(input instanceof Request ? input.url : input);
  checkRequest(pathname, response, init?.body);
  if (response.body === null || response.status === 204 || init?.method === "HEAD") return response;
  const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") ?? false;
  const decoder = new TextDecoder();
  let text = "";
  const check = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      text += decoder.decode(chunk, { stream: true });
      if (isStream) {
        const events = text.split("\n\n");
        text = events.pop()!;
        for (const event of events) checkEvent(pathname, event);
      }
      controller.enqueue(chunk);
    },
    flush() {
      if (isStream) checkEvent(pathname, text);
      else checkAnswer(pathname, response, text);
    },
  });
  const { status, statusText, headers } = response;
  return new Response(response.body.pipeThrough(check), { status, statusText, headers });
};
