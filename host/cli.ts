#!/usr/bin/env node
// The command: which subcommand, and exit codes. 0 done, 1 the system refused, 2 wrong usage. Each subcommand is a file
// of commands/, loaded when it is asked for, so that the daemon does not start slower for what it never runs.

import { readFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type Command, UsageError } from "./commands/command.ts";

/** Interfaces cannot have these names: the command is meant. */
const COMMANDS: Record<string, () => Promise<Command>> = {
  up: async () => (await import("./commands/up.ts")).command,
  down: async () => (await import("./commands/down.ts")).command,
  show: async () => (await import("./commands/show.ts")).command,
  genkey: async () => (await import("./commands/keys.ts")).genkey,
  pubkey: async () => (await import("./commands/keys.ts")).pubkey,
  doctor: async () => (await import("./commands/doctor.ts")).command,
  simulate: async () => (await import("./commands/simulate.ts")).command,
  replay: async () => (await import("./commands/replay.ts")).command,
  decode: async () => (await import("./commands/decode.ts")).command,
  lab: async () => (await import("./commands/lab.ts")).command,
  genpsk: async () => (await import("./commands/keys.ts")).genpsk,
  relay: async () => (await import("./commands/relay.ts")).command,
  proxy: async () => (await import("./commands/proxy.ts")).command,
  conform: async () => (await import("./commands/conform.ts")).command,
  bench: async () => (await import("./commands/bench.ts")).command,
};

const USAGE = `Usage: wasmguard [OPTIONS] INTERFACE      run a WireGuard interface, configured by wg or wg-quick
       wasmguard up FILE.conf | NAME        bring up a tunnel as wg-quick does, without it
       wasmguard down FILE.conf | NAME      take it down again
       wasmguard show [INTERFACE]           show interfaces and their peers; --watch, --events, --metrics, --json
       wasmguard doctor INTERFACE           why is it silent?
       wasmguard decode FILE                the messages of a capture, decrypted with its keys
       wasmguard simulate                   devices on a virtual clock, over a network with faults
       wasmguard replay TRACE               a recorded run again, event by event
       wasmguard lab                        the protocol in a page: two peers by hand, a real peer, captures, a check
       wasmguard genkey                     write a new private key
       wasmguard pubkey < PRIVATE           write the public key of a private key
       wasmguard genpsk                     write a new preshared key
       wasmguard relay --allow HOST:PORT    carry WebSocket clients' datagrams to a peer
       wasmguard proxy FILE.conf SERVICE... a tunnel for programs, by SOCKS5, HTTP and forwards, without privilege
       wasmguard conform                    check what a WireGuard answers, ours or another
       wasmguard bench HOST | --server      how fast the way to another wasmguard is
       wasmguard --version
       wasmguard COMMAND --help             more about one of them
`;

async function main([first, ...rest]: string[]): Promise<void> {
  if (first === "--version") return void process.stdout.write(`wasmguard ${version()}\n`);
  const load = Object.hasOwn(COMMANDS, first ?? "") ? COMMANDS[first] : undefined;
  const command = load ? await load() : (await import("./commands/daemon.ts")).command;
  const args = load ? rest : process.argv.slice(2);
  const options = args.slice(0, args.includes("--") ? args.indexOf("--") : undefined);
  if (options.includes("--help") || options.includes("-h")) {
    return void process.stdout.write(load ? command.help : `${USAGE}\n${command.help.replace(/^Usage:.*\n\n/, "")}`);
  }
  await command.run(args, { script: fileURLToPath(import.meta.url) });
}

function version(): string {
  return (JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }).version;
}

// Whoever reads our output may stop early: `wasmguard decode FILE | head`.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});

main(process.argv.slice(2)).catch((error: unknown) => {
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(error instanceof UsageError ? `wasmguard: ${message} (see wasmguard --help)\n` : `wasmguard: ${message}\n`);
  process.exit(error instanceof UsageError ? 2 : 1);
});
