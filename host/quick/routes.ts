// Routes for the allowed IPs, the longest prefixes first. A default route takes policy routing, as wg-quick's "improved
// rule-based" kind: all packets without our mark use a table of the tunnel's own, after the main table was asked for
// anything but its default route; the daemon's own datagrams have the mark.
//
// In another namespace none of that is needed: the socket is not there, so the default route is a plain one.

import { type AllowedIp, formatPrefix } from "../ip.ts";
import { addFirewall } from "./firewall.ts";
import { familyFlag, ip, type Quick } from "./link.ts";

/** The first table to try, and so the mark. */
const TABLE_FIRST = 51820;

/** What routes ask of the device. */
export interface MarkedDevice {
  /** 0 = off */
  fwmark(): number;
  setFwmark(mark: number): Promise<void>;
}

/** Adds all routes. @param onFirewall  called before rules against spoofing are made */
export async function addRoutes(quick: Quick, device: MarkedDevice, onFirewall: () => void): Promise<void> {
  const { config, name, system } = quick;
  const { table = "auto" } = config.interface;
  if (table === "off") return;
  const isCovered = async (prefix: AllowedIp): Promise<boolean> => {
    const match = ["route", "show", "dev", name, "match", formatPrefix(prefix)];
    return (await system.query(ip(quick, familyFlag(prefix), ...match))) !== "";
  };
  for (const prefix of sortedPrefixes(config.peers.flatMap((peer) => peer.allowedIps))) {
    const flag = familyFlag(prefix);
    const add = (...more: string[]): Promise<void> =>
      system.run(ip(quick, flag, "route", "add", formatPrefix(prefix), "dev", name, ...more));
    if (table !== "auto") await add("table", table);
    else if (prefix.cidr === 0 && quick.namespace === undefined) await addDefault(quick, prefix, device, onFirewall);
    // The network of one of its addresses covers it: the kernel made that route.
    else if (!(await isCovered(prefix))) await add();
  }
}

async function addDefault(
  quick: Quick,
  prefix: AllowedIp,
  device: MarkedDevice,
  onFirewall: () => void,
): Promise<void> {
  const { name, system } = quick;
  let mark = device.fwmark();
  if (mark === 0) {
    mark = await freeTable(quick);
    system.say(`[+] ${name}: fwmark ${mark}`);
    await device.setFwmark(mark);
  }
  const flag = familyFlag(prefix);
  const table = String(mark);
  await system.run(["ip", flag, "route", "add", formatPrefix(prefix), "dev", name, "table", table]);
  await system.run(["ip", flag, "rule", "add", "not", "fwmark", table, "table", table]);
  await system.run(["ip", flag, "rule", "add", "table", "main", "suppress_prefixlength", "0"]);
  onFirewall();
  await addFirewall(quick, prefix.family, mark);
}

async function freeTable({ system }: Quick): Promise<number> {
  for (let table = TABLE_FIRST; ; table++) {
    const routes = await Promise.all(
      ["-4", "-6"].map((flag) => system.query(["ip", flag, "route", "show", "table", String(table)])),
    );
    if (routes.every((text) => text.trim() === "")) return table;
  }
}

/** How often one rule is deleted at most: an `ip` that shows it for ever is not asked for ever. */
const RULE_MAX_COUNT = 64;

/**
 * Removes the rules of default routes; the routes go with the interface. Does nothing for a tunnel that has none.
 * @param mark  the device's, 0 = none
 */
export async function removeRules(quick: Quick, mark: number, allowedIps: readonly AllowedIp[]): Promise<void> {
  const { table = "auto" } = quick.config.interface;
  if (table !== "auto" || quick.namespace !== undefined || mark === 0 || allowedIps.every(({ cidr }) => cidr !== 0)) {
    return;
  }
  for (const flag of ["-4", "-6"]) {
    const count = await removeEach(quick, flag, `lookup ${mark}`, ["table", String(mark)], RULE_MAX_COUNT);
    // One came with each of ours; wg-quick takes those of other tunnels, too.
    const suppress = ["table", "main", "suppress_prefixlength", "0"];
    await removeEach(quick, flag, "from all lookup main suppress_prefixlength 0", suppress, count);
  }
}

/** @returns how many there were, `most` at most */
async function removeEach(
  { system }: Quick,
  flag: string,
  shown: string,
  rule: string[],
  most: number,
): Promise<number> {
  for (let count = 0; count < most; count++) {
    const rules = (await system.query(["ip", flag, "rule", "show"])).split("\n");
    if (!rules.some((line) => line.trimEnd().endsWith(shown))) return count;
    await system.run(["ip", flag, "rule", "delete", ...rule]);
  }
  return most;
}

/** The longest first, then by their text from the end, each once: wg-quick's order (`sort -nr -k 2 -t /`). */
export function sortedPrefixes(prefixes: readonly AllowedIp[]): AllowedIp[] {
  const unique = new Map(prefixes.map((prefix) => [formatPrefix(prefix), prefix]));
  return [...unique].sort(([a, x], [b, y]) => y.cidr - x.cidr || (a < b ? 1 : -1)).map(([, prefix]) => prefix);
}
