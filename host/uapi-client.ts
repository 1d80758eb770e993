// The other end of the UAPI socket, for `wasmguard show`: asks any userspace WireGuard, ours or not.

import { readdirSync } from "node:fs";
import { connect } from "node:net";
import { ERRNO, WasmguardError } from "./errors.ts";
import type { DeviceEvent } from "./events.ts";
import type { DeviceState, Statistics } from "./model.ts";
import { parseEvent, parseState, parseStatistics } from "./uapi.ts";
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

/** What only our own daemon tells; null when another answers. */
export async function readStatistics(name: string, directory = UAPI_DIRECTORY): Promise<Statistics | null> {
  try {
    const lines = (await exchange(socketPath(name, directory), "statistics=1\n\n")).split("\n");
    return lines.pop() === "errno=0" ? parseStatistics(lines) : null;
  } catch {
    // Not asked for in words: whoever wants to know whether the interface lives asks for its state.
    return null;
  }
}

/**
 * Follows the events of an interface until `stop` is called or the daemon ends.
 * @param onFollowing  from now on none is missed
 * @param onLost       so many events came faster than we read
 */
export function followEvents(
  name: string,
  { onEvent, onFollowing, onLost }: { onEvent: (event: DeviceEvent) => void; onFollowing: () => void; onLost: (count: number) => void },
  directory = UAPI_DIRECTORY,
): { ended: Promise<void>; stop: () => void } {
  const socket = connect(socketPath(name, directory), () => socket.write("events=1\n\n"));
  socket.setEncoding("latin1");
  const ended = new Promise<void>((resolve, reject) => {
    let text = "";
    socket.on("error", reject);
    socket.on("close", () => resolve());
    socket.on("data", (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        if (lines[0].startsWith("errno=")) return void socket.destroy(new WasmguardError("ENOTSUP", `${name} does not tell events: it is another WireGuard`));
        if (lines[0].startsWith("following=")) onFollowing();
        else if (lines[0].startsWith("lost=")) onLost(Number(lines[0].slice(5)));
        else onEvent(parseEvent(lines));
      }
    });
  });
  return { ended, stop: () => socket.destroy() };
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
