// Name servers of the configuration: by resolvconf, as wg-quick does, else by systemd-resolved. In another namespace
// it is /etc/netns/NAME/resolv.conf, which `ip netns exec` shows to what it runs.

import { existsSync, mkdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { WasmguardError } from "../errors.ts";
import { formatIp } from "../ip.ts";
import type { Quick } from "./link.ts";

/**
 * Sets the name servers; nothing when the configuration has none.
 * @throws WasmguardError ERR_NO_RESOLVCONF, ERR_COMMAND
 */
export async function setDns(quick: Quick): Promise<void> {
  const { name, config, system, namespace } = quick;
  const { dns, searchDomains } = config.interface;
  if (dns.length === 0) return;
  const servers = dns.map(({ address }) => formatIp(address));
  const text = [
    ...servers.map((server) => `nameserver ${server}`),
    ...(searchDomains.length ? [`search ${searchDomains.join(" ")}`] : []),
    "",
  ].join("\n");
  if (namespace !== undefined) return setNamespaceDns(quick, namespace, text);
  if (system.has("resolvconf")) {
    await system.run(["resolvconf", "-a", `${interfacePrefix(quick)}${name}`, "-m", "0", "-x"], text);
  } else if (system.has("resolvectl")) {
    await system.run(["resolvectl", "dns", name, ...servers]);
    // "~." and default-route: all names, as resolvconf's -x.
    await system.run(["resolvectl", "domain", name, "~.", ...searchDomains]);
    await system.run(["resolvectl", "default-route", name, "true"]);
  } else {
    throw new WasmguardError("ERR_NO_RESOLVCONF", "DNS = needs resolvconf or resolvectl, and neither is installed");
  }
}

/** Takes them away again; nothing when there are none. */
export async function unsetDns(quick: Quick): Promise<void> {
  const { name, config, system, namespace } = quick;
  if (config.interface.dns.length === 0) return;
  if (namespace !== undefined) unsetNamespaceDns(quick, namespace);
  else if (system.has("resolvconf")) await system.run(["resolvconf", "-d", `${interfacePrefix(quick)}${name}`, "-f"]);
  else if (system.has("resolvectl")) await system.run(["resolvectl", "revert", name]);
}

/** Debian's resolvconf puts interfaces in an order by their names: "tun." before ours gives it a place there. */
function interfacePrefix({ system }: Quick): string {
  const lines = system.read("/etc/resolvconf/interface-order").split("\n");
  const prefixes = lines.flatMap((line) => /^([A-Za-z0-9-]+)\*$/.exec(line.trim())?.[1] ?? []);
  return prefixes.length === 0 ? "" : `${prefixes[0]}.`;
}

function setNamespaceDns({ name, system }: Quick, namespace: string, text: string): void {
  const folder = `/etc/netns/${namespace}`;
  const path = `${folder}/resolv.conf`;
  if (existsSync(path)) return system.say(`Warning: ${path} is there already, and stays: DNS = is not applied`);
  system.say(`[+] ${path}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(path, `${heading(name)}\n${text}`);
}

function unsetNamespaceDns({ name, system }: Quick, namespace: string): void {
  const folder = `/etc/netns/${namespace}`;
  const path = `${folder}/resolv.conf`;
  if (!existsSync(path) || !readFileSync(path, "utf8").startsWith(`${heading(name)}\n`)) return;
  system.say(`[#] rm ${path}`);
  rmSync(path);
  for (const empty of [folder, "/etc/netns"]) {
    try {
      rmdirSync(empty);
    } catch {
      return; // something else is in it
    }
  }
}

/** By which down knows that the file is ours. */
function heading(name: string): string {
  return `# of ${name}, by wasmguard up`;
}
