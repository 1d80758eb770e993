// A transport that shows what passes, before it is opened and after it is sealed.

import type { Endpoint } from "../endpoint.ts";
import type { Transport, TransportSocket } from "../transport/types.ts";

/** @param bytes  valid during the call */
export type Watch = (incoming: boolean, bytes: Uint8Array, remote: Endpoint) => void;

export class TappedTransport implements Transport {
  readonly #transport: Transport;
  readonly #watch: Watch;
  /** one datagram was lost, by error code */
  onLost: (code: string) => void = () => {};

  constructor(transport: Transport, watch: Watch) {
    this.#transport = transport;
    this.#watch = watch;
  }

  async bind(port: number): Promise<TransportSocket> {
    const socket = await this.#transport.bind(port);
    const watch = this.#watch;
    const tapped: TransportSocket = {
      port: socket.port,
      onDatagram: null,
      onError: null,
      send: (datagram, to) => {
        watch(false, datagram, to);
        socket.send(datagram, to);
      },
      close: () => socket.close(),
    };
    socket.onDatagram = (bytes, from) => {
      watch(true, bytes, from);
      tapped.onDatagram?.(bytes, from);
    };
    socket.onError = (code) => {
      this.onLost(code);
      tapped.onError?.(code);
    };
    return tapped;
  }
}
