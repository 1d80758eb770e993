// Addresses as the command line and the sections of a file write them: "host:port", ":port" (every address of ours),
// "port" (loopback alone, so that nobody opens a proxy to the world by leaving something out), "unix:/path". Pure.

import { type HostPort, isAddress } from "../endpoint.ts";
import { quote } from "../errors.ts";

/** host "" = every address of ours */
export type Bind = HostPort | { path: string };

const PORT_MAX = 65535;
/** sun_path of Linux has 108 bytes with its end; that of others has 104 */
const PATH_LEN_MAX = 103;

/** Where to listen here; port 0 is any free one. @throws RangeError */
export function parseBind(text: string): Bind {
  return parsePath(text) ?? splitAddress(text, { bare: "127.0.0.1", anyPort: true });
}

/** Where to listen in the tunnel: "port", ":port", or "address:port" with one of its addresses. @throws RangeError */
export function parseInnerBind(text: string): HostPort {
  const bind = splitAddress(text, { bare: "", anyPort: false });
  if (bind.host !== "" && !isAddress(bind.host)) throw new RangeError(`${quote(bind.host)} is not an address`);
  return bind;
}

/** Where to connect here. @throws RangeError */
export function parseLocalTarget(text: string): Bind {
  return parsePath(text) ?? checkTarget(splitAddress(text, { bare: "127.0.0.1", anyPort: false }), text);
}

/** Where to connect through the tunnel: an address or a name, and a port. @throws RangeError */
export function parseTarget(text: string): HostPort {
  return checkTarget(splitAddress(text, { anyPort: false }), text);
}

/** "host:port" with brackets where they are needed, "unix:/path" */
export function formatBind(bind: Bind): string {
  if ("path" in bind) return `unix:${bind.path}`;
  return formatHostPort(bind.host === "" ? "*" : bind.host, bind.port);
}

export function formatHostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Of a dual-stack socket's "::ffff:192.0.2.1" the IPv4 address. */
export function unmapped(address: string): string {
  return /^::ffff:\d+\.\d+\.\d+\.\d+$/i.test(address) ? address.slice(7) : address;
}

/**
 * An authority: "name:80", "name", "[::1]:80".
 * @param defaultPort  undefined = the port must be there
 * @throws RangeError
 */
export function parseAuthority(text: string, defaultPort?: number): HostPort {
  const portMissing = text.endsWith("]") || !text.includes(":");
  return parseTarget(portMissing && defaultPort !== undefined ? `${text}:${defaultPort}` : text);
}

function parsePath(text: string): { path: string } | null {
  if (!text.startsWith("unix:")) return null;
  const path = text.slice("unix:".length);
  if (path === "" || path.includes("\0")) throw new RangeError(`${quote(text)} has no path`);
  if (new TextEncoder().encode(path).length > PATH_LEN_MAX) {
    throw new RangeError(`the path of a unix socket has at most ${PATH_LEN_MAX} bytes`);
  }
  return { path };
}

/** @param bare  the host that a port alone stands for; undefined: it needs a host */
function splitAddress(text: string, { bare, anyPort }: { bare?: string; anyPort: boolean }): HostPort {
  // Somebody's login, perhaps: what stands before it must not be quoted.
  if (text.includes("@")) throw new RangeError("an address has no @ (of a file: Username and Password are keys)");
  const colon = text.lastIndexOf(":");
  const port = text.slice(colon + 1);
  const min = anyPort ? 0 : 1;
  if (!/^(?:0|[1-9]\d{0,4})$/.test(port) || Number(port) < min || Number(port) > PORT_MAX) {
    throw new RangeError(`${quote(text)} has no port in ${min}..${PORT_MAX}`);
  }
  if (colon < 0) {
    if (bare === undefined) throw new RangeError(`${quote(text)} has no address`);
    return { host: bare, port: Number(port) };
  }
  let host = text.slice(0, colon);
  const bracketed = host.startsWith("[") && host.endsWith("]");
  if (bracketed) host = host.slice(1, -1);
  if (bracketed !== host.includes(":") || (bracketed && !isAddress(host))) {
    throw new RangeError(`${quote(text)} must have brackets around an IPv6 address, and only there`);
  }
  if (host !== "" && !isAddress(host)) checkName(host);
  return { host, port: Number(port) };
}

function checkTarget(target: HostPort, text: string): HostPort {
  if (target.host === "") throw new RangeError(`${quote(text)} has no address`);
  return target;
}

/** Letters, digits, "-", "_" and dots (RFC 1123 §2.1 and what people use); what else there may be is no host name. */
function checkName(host: string): void {
  const labels = host.replace(/\.$/, "").split(".");
  if (host.length > 253 || !labels.every((label) => /^[a-z0-9_-]{1,63}$/i.test(label)) || /^[\d.]+$/.test(host)) {
    throw new RangeError(`${quote(host)} is neither an address nor a host name`);
  }
}
