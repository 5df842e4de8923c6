import type { ServerEvent } from "../../app/protocol.ts";

/** The events of a stream of `text/event-stream`; comments and what ends without a blank line are left out. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true }).replaceAll("\r", "");
    const parts = text.split("\n\n");
    text = parts.pop()!;
    for (const part of parts) {
      const data = part
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5))
        .join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}
