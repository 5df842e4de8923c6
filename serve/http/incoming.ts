import { IncomingMessage } from "node:http";
import { SOCKET_PATH } from "./chat_socket.ts";

/**
 * A request that asks for another protocol is one for HTTP/1.1 unless it is for the page's socket: Java's client offers h2c with each
 * first request, and so does `curl --http2`. Node would let go of its connection, and not read its body.
 */
export class Incoming extends IncomingMessage {
  #asks = false;

  /** Node asks once method and path are there. */
  get upgrade(): boolean {
    return this.#asks && (this.method === "CONNECT" || this.url?.split("?")[0] === SOCKET_PATH);
  }

  set upgrade(asks: boolean | null) {
    // Node's own constructor sets it too, before there is anything here.
    if (#asks in this) this.#asks = asks === true;
  }
}
