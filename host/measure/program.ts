// What this program is, as the other end is told.

import process from "node:process";
import { PROTOCOL, type Program } from "./message.ts";

/** @param version  of wasmguard */
export function thisProgram(version: string): Program {
  const { deno } = process.versions as { deno?: string };
  return {
    version,
    protocol: PROTOCOL,
    runtime: deno === undefined ? `node ${process.versions.node}` : `deno ${deno}`,
    platform: `${process.platform} ${process.arch}`,
  };
}
