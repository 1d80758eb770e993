// Environment variables and read permissions, asked for without a question to the person at the terminal: Deno would
// stop and ask where a variable is read that nobody allowed.

import process from "node:process";

interface DenoPermissions {
  permissions: { querySync(descriptor: { name: string; variable?: string; path?: string }): { state: string } };
}

const deno = (globalThis as { Deno?: DenoPermissions }).Deno;

/** @returns undefined when it is not set, or may not be read */
export function readVariable(name: string): string | undefined {
  if (deno && deno.permissions.querySync({ name: "env", variable: name }).state !== "granted") return undefined;
  return process.env[name];
}

/** Whether a folder may be watched. */
export function mayRead(path: string): boolean {
  return !deno || deno.permissions.querySync({ name: "read", path }).state === "granted";
}
