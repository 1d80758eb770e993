// Where an interface was put that is not in our network namespace: a note beside its socket, for down. The socket
// itself cannot tell, and to look for the interface in every namespace could find another one of the same name.

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { UAPI_DIRECTORY } from "../uapi-server.ts";

function notePath(name: string): string {
  return `${UAPI_DIRECTORY}/${name}.netns`;
}

/** Notes it for the process that holds the interface: us. The folder of the sockets must be there. */
export function noteNamespace(name: string, namespace: string): void {
  writeFileSync(notePath(name), `${namespace}\n${process.pid}\n`, { mode: 0o600 });
}

/** The noted namespace; undefined when there is no note. */
export function notedNamespace(name: string): string | undefined {
  return read(name)[0] || undefined;
}

/** Removes the note. @param pid  only when that process wrote it */
export function forgetNamespace(name: string, pid?: number): void {
  if (pid === undefined || read(name)[1] === String(pid)) rmSync(notePath(name), { force: true });
}

function read(name: string): string[] {
  try {
    return readFileSync(notePath(name), "utf8").split("\n");
  } catch {
    return [];
  }
}
