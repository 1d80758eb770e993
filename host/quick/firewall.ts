// Rules that go with a default route: packets to the tunnel's addresses must come out of the tunnel, or somebody on
// the local network could reach them (CVE-2019-14899), and replies to the daemon's marked datagrams carry the mark
// again, so that the reverse path filter looks them up as it should. By nft where it is, else by iptables; the names
// are wg-quick's, so that either command takes away what the other made.

import { WasmguardError } from "../errors.ts";
import type { Family } from "../ip.ts";
import type { Quick } from "./link.ts";

const SRC_VALID_MARK = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/** Adds the rules of one family. @throws WasmguardError ERR_NO_FIREWALL without nft and iptables */
export async function addFirewall(quick: Quick, family: Family, mark: number): Promise<void> {
  const { name, system } = quick;
  const text = await system.query(["ip", "-o", `-${family}`, "addr", "show", "dev", name]);
  const addresses = text.split("\n").flatMap((line) => /inet6? ([0-9a-f:.]+)\/\d+/.exec(line)?.[1] ?? []);
  if (family === 4) system.set(SRC_VALID_MARK, "1");
  const restore = family === 4 ? "iptables-restore" : "ip6tables-restore";
  if (system.has("nft")) {
    await system.run(["nft", "-f", "-"], nftRules(name, family, addresses, mark));
  } else if (system.has(restore)) {
    await system.run([restore, "-n"], iptablesRules(name, addresses, mark));
  } else {
    throw new WasmguardError(
      "ERR_NO_FIREWALL",
      `A default route needs nft or ${restore}, and neither is installed (or Table = off)`,
    );
  }
}

/** The mark in the rules of the interface, 0 when there are none: what a process that was killed has left tells it. */
export async function markOfRules({ name, system }: Quick): Promise<number> {
  for (const family of ["ip", "ip6"]) {
    const rules = await system.query(["nft", "list", "table", family, tableName(name)]);
    const save = await system.query([family === "ip" ? "iptables-save" : "ip6tables-save"]);
    const lines = [...rules.split("\n"), ...save.split("\n").filter((line) => line.endsWith(marker(name)))];
    for (const line of lines) {
      const mark = /\bmark (0x[0-9a-f]+)/.exec(line);
      if (mark) return Number(mark[1]);
    }
  }
  return 0;
}

/** Removes whatever rules of the interface there are. */
export async function removeFirewall({ name, system }: Quick): Promise<void> {
  if (system.has("nft")) {
    const tables = (await system.query(["nft", "list", "tables"])).split("\n").map((line) => line.trim());
    const ours = tables.filter((line) => line.endsWith(` ${tableName(name)}`));
    if (ours.length > 0) await system.run(["nft", "-f", "-"], ours.map((table) => `delete ${table}\n`).join(""));
  }
  for (const iptables of ["iptables", "ip6tables"]) {
    if (!system.has(`${iptables}-save`)) continue;
    const lines = (await system.query([`${iptables}-save`])).split("\n");
    const kept = lines.filter((line) =>
      line.startsWith("*") || line === "COMMIT" || (line.startsWith("-A") && line.endsWith(marker(name)))
    );
    if (!kept.some((line) => line.startsWith("-A"))) continue;
    await system.run([`${iptables}-restore`, "-n"], kept.map((line) => `${line.replace(/^-A/, "-D")}\n`).join(""));
  }
}

function tableName(name: string): string {
  return `wg-quick-${name}`;
}

function marker(name: string): string {
  return `-m comment --comment "wg-quick(8) rule for ${name}"`;
}

function nftRules(name: string, family: Family, addresses: string[], mark: number): string {
  const ip = family === 4 ? "ip" : "ip6";
  const table = `${ip} ${tableName(name)}`;
  const chain = (chain: string, hook: string, priority: number): string =>
    `add chain ${table} ${chain} { type filter hook ${hook} priority ${priority}; }`;
  return [
    `add table ${table}`,
    chain("preraw", "prerouting", -300),
    chain("premangle", "prerouting", -150),
    chain("postmangle", "postrouting", -150),
    ...addresses.map((address) =>
      `add rule ${table} preraw iifname != "${name}" ${ip} daddr ${address} fib saddr type != local drop`
    ),
    `add rule ${table} postmangle meta l4proto udp mark ${mark} ct mark set mark`,
    `add rule ${table} premangle meta l4proto udp meta mark set ct mark`,
    "",
  ].join("\n");
}

function iptablesRules(name: string, addresses: string[], mark: number): string {
  const end = marker(name);
  return [
    "*raw",
    ...addresses.map((address) =>
      `-I PREROUTING ! -i ${name} -d ${address} -m addrtype ! --src-type LOCAL -j DROP ${end}`
    ),
    "COMMIT",
    "*mangle",
    `-I POSTROUTING -m mark --mark ${mark} -p udp -j CONNMARK --save-mark ${end}`,
    `-I PREROUTING -p udp -j CONNMARK --restore-mark ${end}`,
    "COMMIT",
    "",
  ].join("\n");
}
