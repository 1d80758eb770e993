// Up and down, step by step, as wg-quick(8) does them on Linux; the interface itself is the daemon's (commands/up.ts).
//
//   up    PreUp | interface, keys and peers | addresses, MTU, up | DNS | routes, rules, firewall | PostUp
//   down  PreDown | SaveConfig | DNS, firewall, rules | interface | PostDown
//
// A step that fails takes back all before it: what is taken back is looked up in the system, never assumed, so that it
// works after a step that was half done.

import type { AllowedIp, IpAddress } from "../ip.ts";
import type { DeviceState } from "../model.ts";
import { setDns, unsetDns } from "./dns.ts";
import { removeFirewall } from "./firewall.ts";
import { addAddresses, moveLink, type Quick, setUp } from "./link.ts";
import { addRoutes, type MarkedDevice, removeRules } from "./routes.ts";
import { saveConfig } from "./save.ts";

/** Runs commands of the configuration, %i being the interface, one after another. */
export async function runHooks({ name, system, namespace }: Quick, hooks: readonly string[]): Promise<void> {
  for (const hook of hooks) await system.shell(hook.replaceAll("%i", name), namespace);
}

/** What was done so far that does not go with the interface. */
export interface Progress {
  dns: boolean;
  firewall: boolean;
}

/**
 * Everything after the interface is there with its keys and peers, up to PostUp. What it throws is the caller's to
 * clean up after, by takeBack().
 * @param endpoints  of the peers, as far as they are known
 */
export async function bringUp(
  quick: Quick,
  device: MarkedDevice,
  endpoints: readonly IpAddress[],
  progress: Progress,
): Promise<void> {
  if (quick.namespace !== undefined) await moveLink(quick, endpoints);
  await addAddresses(quick);
  await setUp(quick, endpoints);
  progress.dns = quick.config.interface.dns.length > 0;
  await setDns(quick);
  await addRoutes(quick, device, () => (progress.firewall = true));
  await runHooks(quick, quick.config.interface.postUp);
}

/**
 * Takes back what bringUp() did that does not go with the interface. Goes on after a failure, and says it.
 * @param fwmark  of the device, 0 = none
 * @param allowedIps  of all its peers
 */
export async function takeBack(
  quick: Quick,
  fwmark: number,
  allowedIps: AllowedIp[],
  progress: Progress,
): Promise<void> {
  const steps = [
    () => (progress.dns ? unsetDns(quick) : undefined),
    () => (progress.firewall ? removeFirewall(quick) : undefined),
    () => removeRules(quick, fwmark, allowedIps),
  ];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      quick.system.say(`wasmguard: ${(error as Error).message}`);
    }
  }
}

export interface DownOptions {
  /** of the configuration file, for SaveConfig */
  path: string;
  /** the device as it is */
  state: DeviceState;
  removeInterface: () => Promise<void>;
}

/** Takes all down. A PreDown that fails, or a file that cannot be saved, stops it before anything is changed. */
export async function takeDown(quick: Quick, { path, state, removeInterface }: DownOptions): Promise<void> {
  const { preDown, postDown, saveConfig: save } = quick.config.interface;
  await runHooks(quick, preDown);
  if (save) await saveConfig(quick, path, state);
  const allowedIps = state.peers.flatMap((peer) => peer.allowedIps);
  await takeBack(quick, state.fwmark, allowedIps, { dns: true, firewall: true });
  await removeInterface();
  await runHooks(quick, postDown);
}
