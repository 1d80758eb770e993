// One connection through the tunnel, or in the local network, that stands or fails in bounded time.

import { connect } from "node:net";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type HostPort, isAddress } from "../endpoint.ts";
import type { Dialer, TunnelSocket } from "../tunnel/types.ts";
import type { Bind } from "./address.ts";

/** patience of a client of ours, and of most programs: TCP's own would be minutes */
export const CONNECT_TIMEOUT_MS = 20_000;

export type FamilyPreference = "auto" | "ipv4" | "ipv6";

export interface DialOptions {
  prefer?: FamilyPreference;
  /** gives up the attempt; a connection that stands is left alone */
  signal?: AbortSignal;
  /** default true: an end of the other side is passed on as what it is */
  allowHalfOpen?: boolean;
}

/** Rejects with the error of the name or of the connection. */
export async function dial(tunnel: Dialer, { host, port }: HostPort, options: DialOptions = {}): Promise<TunnelSocket> {
  const { prefer = "auto", signal, allowHalfOpen = true } = options;
  const address = await preferred(tunnel, host, prefer, signal);
  if (signal?.aborted) throw givenUp();
  const socket = tunnel.connect({ host: address, port, timeoutMs: CONNECT_TIMEOUT_MS, allowHalfOpen });
  // An error comes by `opened` first; later ones belong to whoever takes the socket.
  socket.on("error", () => {});
  const abort = () => socket.destroy(givenUp());
  signal?.addEventListener("abort", abort);
  try {
    await socket.opened;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
  return socket;
}

function givenUp(): Error {
  return Object.assign(new Error("given up"), { code: "ABORT_ERR" });
}

/** The address of a name that a preference picks; "auto" leaves the choice to the tunnel. */
async function preferred(
  tunnel: Dialer,
  host: string,
  prefer: FamilyPreference,
  signal?: AbortSignal,
): Promise<string> {
  if (prefer === "auto" || isAddress(host)) return host;
  const addresses = await tunnel.resolve(host, { signal });
  return addresses.find((address) => address.includes(":") === (prefer === "ipv6")) ?? addresses[0] ?? host;
}

/** A connection on this side: TCP, or a unix socket. */
export function dialLocal(target: Bind, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const options = "path" in target ? { path: target.path } : { ...target, autoSelectFamily: true };
    const socket = connect({ ...options, allowHalfOpen: true, noDelay: true });
    const fail = (error: Error) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      socket.destroy();
      reject(error);
    };
    const abort = () => fail(givenUp());
    const late = () => fail(Object.assign(new Error("no answer in time"), { code: "ETIMEDOUT" }));
    const timer = setTimeout(late, CONNECT_TIMEOUT_MS);
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    socket.on("error", fail);
    socket.once("connect", () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      socket.off("error", fail);
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}

/** Aborted when the client goes away, or its listener stops: nobody waits for the connection any more. */
export function abortOnClose(client: Duplex, stopped: AbortSignal): AbortSignal {
  const gone = new AbortController();
  const abort = () => gone.abort();
  if (stopped.aborted || client.destroyed) abort();
  stopped.addEventListener("abort", abort, { once: true });
  client.once("close", () => {
    stopped.removeEventListener("abort", abort);
    abort();
  });
  return gone.signal;
}
