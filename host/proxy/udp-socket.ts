// UDP sockets of this side: bound in a promise, with errors that name the address.

import type { Socket } from "node:dgram";
import type { HostPort } from "../endpoint.ts";
import { listenError } from "./listener.ts";

/** host "" = every address. Rejects with a WasmguardError; the socket is closed then. */
export function bindUdp(socket: Socket, { host, port }: HostPort): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => {
      try {
        socket.close();
      } catch {
        // it has closed itself
      }
      reject(listenError(error, { host, port }));
    };
    socket.once("error", fail);
    socket.bind({ port, address: host || undefined, exclusive: true }, () => {
      socket.off("error", fail);
      resolve();
    });
  });
}
