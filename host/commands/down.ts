// wasmguard down: what `wg-quick down` does, for a tunnel that `wasmguard up` or wg-quick with a userspace WireGuard
// brought up. The daemon ends with its interface.

import { existsSync, rmSync } from "node:fs";
import { WasmguardError } from "../errors.ts";
import type { DeviceState } from "../model.ts";
import { readConfigFile } from "../quick/file.ts";
import { markOfRules } from "../quick/firewall.ts";
import { type Quick, removeLink } from "../quick/link.ts";
import { forgetNamespace, notedNamespace } from "../quick/namespace.ts";
import { takeBack, takeDown } from "../quick/quick.ts";
import { LinuxSystem } from "../quick/system.ts";
import { readState } from "../uapi-client.ts";
import { socketPath } from "../uapi-server.ts";
import { atMost, type Command, parse, UsageError } from "./command.ts";
import { requireRoot } from "./up.ts";

export const command: Command = {
  help: `Usage: wasmguard down FILE.conf | NAME

Takes down a tunnel that wasmguard up brought up: interface, routes, rules, name servers.
`,
  async run(args) {
    const { positionals } = parse(args, {});
    const [file] = positionals;
    if (file === undefined) throw new UsageError("name a configuration, as in: wasmguard down wg0");
    atMost(positionals, 1);
    requireRoot("down");
    await down(file);
  },
};

async function down(file: string): Promise<void> {
  const system = new LinuxSystem();
  const { path, name, config } = readConfigFile(file, (line) => system.say(line));
  const state = await readRunning(name);
  if (state === null) return removeLeftovers({ name, config, system, namespace: notedNamespace(name) });
  const isHere = (await system.query(["ip", "link", "show", "dev", name])) !== "";
  const quick: Quick = { name, config, system, namespace: isHere ? undefined : notedNamespace(name) };
  await takeDown(quick, { path, state, removeInterface: () => removeInterface(quick) });
}

/** @returns null when nobody answers */
async function readRunning(name: string): Promise<DeviceState | null> {
  try {
    return await readState(name);
  } catch (error) {
    const { code } = error as { code?: string };
    if (code !== "ENOENT" && code !== "ECONNREFUSED") throw error;
    return null;
  }
}

/**
 * What a daemon that was killed could not take with it. Its interface went with it.
 * @throws WasmguardError ENOENT when there is nothing of it
 */
async function removeLeftovers(quick: Quick): Promise<void> {
  const { name, config, system } = quick;
  const mark = await markOfRules(quick);
  if (mark === 0 && !existsSync(socketPath(name))) {
    throw new WasmguardError("ENOENT", `${name} is not a WireGuard interface that runs here`);
  }
  system.say(`[!] ${name} does not run: removing what it left`);
  await takeBack(quick, mark, config.peers.flatMap((peer) => peer.allowedIps), { dns: true, firewall: true });
  rmSync(socketPath(name), { force: true });
  forgetNamespace(name);
}

/** How long a daemon may take to end after its interface is gone, ms. */
const END_TIME_MS = 5000;

async function removeInterface(quick: Quick): Promise<void> {
  const { name, system } = quick;
  await removeLink(quick);
  const end = Date.now() + END_TIME_MS;
  while (existsSync(socketPath(name))) {
    if (Date.now() > end) {
      system.say(`Warning: ${socketPath(name)} is still there: its process does not end`);
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  forgetNamespace(name);
}
