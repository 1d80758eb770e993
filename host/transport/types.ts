// What carries datagrams: UDP, WebSocket frames through a relay, messages of a MessagePort. One event loop, no blocking.
// (The daemon's blocked lanes have faster ways of their own: platform/types.ts.)

import type { Endpoint } from "../endpoint.ts";

/** Makes sockets of one kind. */
export interface Transport {
  /**
   * @param port host order, 0 = any; a transport without ports takes any number
   * @throws WasmguardError with a system `code` (EADDRINUSE ...) and what to do about it
   */
  bind(port: number): Promise<TransportSocket>;
}

export interface TransportSocket {
  /** host order; of a transport without ports, the one asked for */
  readonly port: number;
  /** A datagram came; `bytes` are valid during the call. */
  onDatagram: ((bytes: Uint8Array, from: Endpoint) => void) | null;
  /** One datagram was lost, by error code: "EMSGSIZE", "ENETUNREACH". Nothing here is fatal. */
  onError: ((code: string) => void) | null;
  /** `datagram` is the caller's again when it returns. Never throws: what cannot be sent is reported to onError. */
  send(datagram: Uint8Array, to: Endpoint): void;
  close(): void;
}
