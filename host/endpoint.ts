// An endpoint: where a peer's datagrams come from and go to. Text is `IP:port` or `[IPv6%scope]:port`; in memory it is
// the ENDPOINT record of assembly/abi.ts. Names of interfaces in a scope are turned into numbers by a function of the
// caller, because only the system knows them; host names are left to the configuration (config.ts) and its resolver.

import { ENDPOINT_ADDR, ENDPOINT_FAMILY, ENDPOINT_LEN, ENDPOINT_PORT, ENDPOINT_SCOPE } from "../assembly/abi.ts";
import { quote } from "./errors.ts";
import { IPV4_LEN, IPV6_LEN, formatIp, parseIp, tryParseIp, type IpAddress } from "./ip.ts";

export interface Endpoint extends IpAddress {
  /** 1..65535 */
  port: number;
  /** IPv6 zone: an interface index, 0 = none */
  scope: number;
}

export interface HostPort {
  /** an address without brackets (with its scope), or a name */
  host: string;
  port: number;
}

/** The index of a network interface, or 0 when there is no such interface. */
export type InterfaceIndex = (name: string) => number;

const UINT32_MAX = 0xffffffff;
const PORT_MAX = 65535;

/** @throws RangeError unless `text` is `IP:port` or `[IPv6]:port` */
export function parseEndpoint(text: string, interfaceIndex?: InterfaceIndex): Endpoint {
  const { host, port } = splitHostPort(text);
  return toEndpoint(host, port, interfaceIndex);
}

/** @throws RangeError unless `host` is an address, an IPv6 one perhaps with a %scope */
export function toEndpoint(host: string, port: number, interfaceIndex?: InterfaceIndex): Endpoint {
  const percent = host.indexOf("%");
  if (percent < 0) return { ...parseIp(host), port, scope: 0 };
  const ip = parseIp(host.slice(0, percent));
  if (ip.family !== 6) throw new RangeError(`${quote(host)} has a scope, which only IPv6 knows`);
  return { ...ip, port, scope: parseScope(host.slice(percent + 1), interfaceIndex) };
}

/** Whether `host` is an address and needs no resolver. */
export function isAddress(host: string): boolean {
  const percent = host.indexOf("%");
  return tryParseIp(percent < 0 ? host : host.slice(0, percent)) !== null;
}

/** Splits at the last colon; brackets are taken off. @throws RangeError */
export function splitHostPort(text: string): HostPort {
  const colon = text.lastIndexOf(":");
  const port = text.slice(colon + 1);
  if (colon < 0 || port === "" || port.includes("]")) throw new RangeError(`${quote(text)} has no :port`);
  if (!/^[1-9]\d{0,4}$/.test(port) || Number(port) > PORT_MAX) {
    throw new RangeError(`port ${quote(port)} is not in 1..${PORT_MAX}`);
  }
  let host = text.slice(0, colon);
  if (host.startsWith("[") && host.endsWith("]")) host = host.slice(1, -1);
  if (host === "") throw new RangeError(`${quote(text)} has no address`);
  if (host.includes(":") !== text.startsWith("[")) {
    throw new RangeError(`${quote(text)} must have brackets around an IPv6 address, and only there`);
  }
  return { host, port: Number(port) };
}

export function formatEndpoint({ family, address, port, scope }: Endpoint): string {
  const ip = formatIp(address);
  if (family === 4) return `${ip}:${port}`;
  return scope === 0 ? `[${ip}]:${port}` : `[${ip}%${scope}]:${port}`;
}

/** Writes an ENDPOINT record at byte `at` of `view`, without a sticky source; null is family 0. */
export function encodeEndpoint(view: DataView, at: number, endpoint: Endpoint | null): void {
  const record = new Uint8Array(view.buffer, view.byteOffset + at, ENDPOINT_LEN);
  record.fill(0);
  if (endpoint === null) return;
  view.setUint16(at + ENDPOINT_FAMILY, endpoint.family, true);
  view.setUint16(at + ENDPOINT_PORT, endpoint.port, false);
  view.setUint32(at + ENDPOINT_SCOPE, endpoint.scope, true);
  record.set(endpoint.address, ENDPOINT_ADDR);
}

/** Reads an ENDPOINT record; null when it holds none. */
export function decodeEndpoint(view: DataView, at: number): Endpoint | null {
  const family = view.getUint16(at + ENDPOINT_FAMILY, true);
  if (family !== 4 && family !== 6) return null;
  const start = view.byteOffset + at + ENDPOINT_ADDR;
  const length = family === 4 ? IPV4_LEN : IPV6_LEN;
  return {
    family,
    address: new Uint8Array(new Uint8Array(view.buffer, start, length)), // a copy, never on shared memory
    port: view.getUint16(at + ENDPOINT_PORT, false),
    scope: view.getUint32(at + ENDPOINT_SCOPE, true),
  };
}

function parseScope(text: string, interfaceIndex: InterfaceIndex = () => 0): number {
  const scope = /^[1-9]\d{0,9}$/.test(text) ? Number(text) : interfaceIndex(text);
  if (!(scope >= 1 && scope <= UINT32_MAX)) throw new RangeError(`scope ${quote(text)} is no network interface`);
  return scope;
}
