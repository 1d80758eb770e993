// The endpoints that a relay carries datagrams to: an address, a prefix or a name, each with one port. Without a list a
// relay would be an open reflector, so there is none that is not given.
//
// What is decided on is always an address, and that very address is then used: a name is resolved when a client asks,
// and not a second time. A name stands for what its DNS says just then, but never for an address of this machine or its
// link (that is what DNS rebinding aims at): those need a rule that names them.

import { lookup } from "node:dns/promises";
import { isAddress, splitHostPort } from "../endpoint.ts";
import { quote, WasmguardError } from "../errors.ts";
import { type AllowedIp, formatPrefix, type IpAddress, mask, parseIp, parsePrefix, tryParseIp } from "../ip.ts";

/** All addresses of a name. */
export type Resolve = (name: string) => Promise<IpAddress[]>;

const NAME = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/;
const RESOLVE_TIMEOUT_MS = 5_000;

/** No single host: "this" network, multicast, reserved and broadcast. */
const NEVER = ["0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "ff00::/8"].map((text) => parsePrefix(text));
/** This machine and its link: a rule must lie inside to mean them. */
const NEAR = ["127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10"].map((text) => parsePrefix(text));

interface Rule {
  /** one of the two */
  prefix?: AllowedIp;
  name?: string;
  port: number;
}

export class AllowList {
  readonly #rules: Rule[];
  readonly #resolve: Resolve;

  /**
   * @param rules    "IP:PORT", "IP/CIDR:PORT" or "NAME:PORT", IPv6 in brackets: "[fd00::/8]:51820"
   * @param resolve  default: the system's resolver
   * @throws RangeError which rule is wrong and why
   */
  constructor(rules: string[], resolve: Resolve = resolveBySystem) {
    if (rules.length === 0) throw new RangeError("Cannot relay without a list of allowed endpoints");
    this.#rules = rules.map(parseRule);
    this.#resolve = resolve;
  }

  /**
   * The addresses behind what a client asked for, each of them allowed; none when it is not.
   * @param endpoint  "HOST:PORT" as it came
   */
  async find(endpoint: string): Promise<{ addresses: IpAddress[]; port: number }> {
    let asked: { host: string; port: number };
    try {
      asked = splitHostPort(endpoint);
    } catch {
      return { addresses: [], port: 0 };
    }
    const { port } = asked;
    const host = plainName(asked.host);
    if (host.includes("%")) return { addresses: [], port }; // a zone of the client's machine
    if (!isAddress(host)) {
      const isListed = this.#rules.some((rule) => rule.name === host && rule.port === port);
      return { addresses: isListed ? await this.#addressesOf(host, port) : [], port };
    }
    const ip = unmapped(parseIp(host));
    if (this.#isAllowed(ip, port)) return { addresses: [ip], port };
    for (const { name } of this.#rules.filter((rule) => rule.name !== undefined && rule.port === port)) {
      const addresses = await this.#addressesOf(name!, port);
      const isAmong = addresses.some((each) => isWithin(ip, { ...each, cidr: each.address.length * 8 }));
      if (isAmong) return { addresses: [ip], port };
    }
    return { addresses: [], port };
  }

  /** Those that a listed name may stand for. */
  async #addressesOf(name: string, port: number): Promise<IpAddress[]> {
    const addresses = (await resolveInTime(this.#resolve, name)).map(unmapped);
    return addresses.filter((ip) => {
      if (NEVER.some((prefix) => isWithin(ip, prefix))) return false;
      // RFC 6761 §6.3: "localhost" is this machine, whatever any DNS says.
      return name === "localhost" || !NEAR.some((prefix) => isWithin(ip, prefix)) || this.#isAllowed(ip, port);
    });
  }

  /** By a rule of addresses. */
  #isAllowed(ip: IpAddress, port: number): boolean {
    if (NEVER.some((prefix) => isWithin(ip, prefix))) return false;
    const near = NEAR.find((prefix) => isWithin(ip, prefix));
    return this.#rules.some(({ prefix, port: allowed }) => {
      if (!prefix || allowed !== port || !isWithin(ip, prefix)) return false;
      return near === undefined || (isWithin(prefix, near) && prefix.cidr >= near.cidr);
    });
  }
}

function parseRule(text: string): Rule {
  try {
    const { host, port } = splitHostPort(text);
    if (host.includes("/") || isAddress(host)) {
      const prefix = unmappedPrefix(parsePrefix(host, true));
      if (NEVER.some((never) => isWithin(prefix, never) && prefix.cidr >= never.cidr)) {
        throw new RangeError(`${formatPrefix(prefix)} is not the address of a host`);
      }
      return { prefix, port };
    }
    const name = plainName(host);
    if (!NAME.test(name)) throw new RangeError(`${quote(host)} is no host name`);
    return { name, port };
  } catch (error) {
    throw new RangeError(`Cannot allow ${quote(text)}: ${(error as Error).message}`);
  }
}

function plainName(host: string): string {
  return host.toLowerCase().replace(/\.$/, "");
}

function isWithin(ip: IpAddress, prefix: AllowedIp): boolean {
  if (ip.family !== prefix.family) return false;
  const network = ip.address.slice();
  mask(network, prefix.cidr);
  return network.every((byte, i) => byte === prefix.address[i]);
}

const MAPPED = parsePrefix("::ffff:0:0/96");

/** IPv4 written as IPv6 (RFC 4291 §2.5.5.2) is IPv4: it goes to the same host. */
function unmapped(ip: IpAddress): IpAddress {
  return isWithin(ip, MAPPED) ? { family: 4, address: ip.address.slice(12) } : ip;
}

function unmappedPrefix(prefix: AllowedIp): AllowedIp {
  if (prefix.cidr < MAPPED.cidr || !isWithin(prefix, MAPPED)) return prefix;
  return { family: 4, address: prefix.address.slice(12), cidr: prefix.cidr - MAPPED.cidr };
}

async function resolveBySystem(name: string): Promise<IpAddress[]> {
  const found = await lookup(name, { all: true });
  return found.flatMap(({ address }) => tryParseIp(address) ?? []);
}

/** Rejects with EAI_AGAIN when there is no answer in time. */
async function resolveInTime(resolve: Resolve, name: string): Promise<IpAddress[]> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new WasmguardError("EAI_AGAIN", `No answer for the name ${quote(name)}`);
    timer = setTimeout(() => reject(error), RESOLVE_TIMEOUT_MS);
  });
  try {
    return await Promise.race([resolve(name), late]);
  } finally {
    clearTimeout(timer);
  }
}
