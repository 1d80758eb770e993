// The other end of the UAPI socket, for `wasmguard show`: asks any userspace WireGuard, ours or not.

import { readdirSync } from "node:fs";
import { connect } from "node:net";
import { ERRNO, WasmguardError } from "./errors.ts";
import type { DeviceState } from "./model.ts";
import { parseState } from "./uapi.ts";
import { UAPI_DIRECTORY, socketPath } from "./uapi-server.ts";

/** Names of the interfaces that have a socket, alive or not, sorted. */
export function listInterfaces(directory = UAPI_DIRECTORY): string[] {
  try {
    return readdirSync(directory)
      .filter((file) => /^[^.].*\.sock$/.test(file))
      .map((file) => file.slice(0, -".sock".length))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** @throws WasmguardError when the daemon reports an error, or the system's: ENOENT, ECONNREFUSED, EACCES */
export async function readState(name: string, directory = UAPI_DIRECTORY): Promise<DeviceState> {
  const lines = (await exchange(socketPath(name, directory), "get=1\n\n")).split("\n");
  const errno = Number(lines.pop()?.replace(/^errno=/, "") ?? NaN);
  if (errno !== 0) {
    throw new WasmguardError("ERR_UAPI", `${name} answers with errno ${errno}`, {
      errno: Math.abs(errno) || ERRNO.EIO,
    });
  }
  return parseState(lines);
}

/** One request, one reply: all before its empty line. */
function exchange(path: string, request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let reply = "";
    const socket = connect(path, () => socket.write(request));
    socket.setEncoding("latin1");
    socket.on("error", reject);
    socket.on("close", () => reject(new WasmguardError("ERR_UAPI", `${path} closed without a reply`)));
    socket.on("data", (text: string) => {
      const from = Math.max(0, reply.length - 1);
      reply += text;
      const end = reply.indexOf("\n\n", from);
      if (end < 0) return;
      resolve(reply.slice(0, end));
      socket.destroy();
    });
  });
}
