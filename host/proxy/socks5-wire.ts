// SOCKS5 on the wire: RFC 1928 (requests, replies, UDP headers) and RFC 1929 (user name and password). Pure: bytes in,
// values out. A reader asks a source for as many bytes as the next field has, so that nothing is read beyond the
// handshake and nothing of it grows: the longest message has 513 bytes.

import { formatIp, parseIp, tryParseIp } from "../ip.ts";

export const VERSION = 5;
export const LOGIN_VERSION = 1;
export const METHOD_NONE = 0;
export const METHOD_LOGIN = 2;
export const METHOD_REFUSED = 0xff;

export const CMD_CONNECT = 1;
export const CMD_BIND = 2;
export const CMD_UDP_ASSOCIATE = 3;

const ATYP_IPV4 = 1;
const ATYP_NAME = 3;
const ATYP_IPV6 = 4;

/** RFC 1928 §6 */
export const REPLY = {
  succeeded: 0,
  failure: 1,
  notAllowed: 2,
  commandNotSupported: 7,
  addressNotSupported: 8,
} as const;

export interface Destination {
  /** an address, or a name as the client wrote it */
  host: string;
  port: number;
}

/** Gives exactly so many bytes, or rejects when there will be no more. */
export type Source = (length: number) => Promise<Uint8Array>;

/** What the client says is not SOCKS5; `reply` is what it is told, if anything. */
export class SocksError extends Error {
  readonly reply: number | undefined;

  constructor(message: string, reply?: number) {
    super(message);
    this.name = "SocksError";
    this.reply = reply;
  }
}

/** The methods that a client offers. RFC 1928 §3. */
export async function readGreeting(source: Source): Promise<Uint8Array> {
  const [version, count] = await source(2);
  if (version !== VERSION) throw new SocksError(`version ${version} is not 5`);
  if (count === 0) throw new SocksError("no methods");
  return source(count);
}

/** RFC 1929 §2. */
export async function readLogin(source: Source): Promise<{ username: Uint8Array; password: Uint8Array }> {
  const [version, nameLength] = await source(2);
  if (version !== LOGIN_VERSION) throw new SocksError(`version ${version} of the login is not 1`);
  const username = nameLength === 0 ? new Uint8Array(0) : await source(nameLength);
  const [passwordLength] = await source(1);
  const password = passwordLength === 0 ? new Uint8Array(0) : await source(passwordLength);
  return { username, password };
}

/** RFC 1928 §4. @throws SocksError */
export async function readRequest(source: Source): Promise<Destination & { command: number }> {
  const [version, command, , type] = await source(4);
  if (version !== VERSION) throw new SocksError(`version ${version} is not 5`);
  const length = addressLength(type) ?? (type === ATYP_NAME ? (await source(1))[0] : null);
  if (length === null) throw new SocksError(`address type ${type}`, REPLY.addressNotSupported);
  if (length === 0) throw new SocksError("a name of no bytes", REPLY.failure);
  const host = decodeHost(type, await source(length));
  if (host === null) throw new SocksError("the name is none", REPLY.failure);
  const [high, low] = await source(2);
  return { command, host, port: (high << 8) | low };
}

/** RFC 1928 §6. @param address  an IP address; undefined = 0.0.0.0:0 */
export function encodeReply(reply: number, address = "0.0.0.0", port = 0): Uint8Array {
  return Buffer.concat([Uint8Array.of(VERSION, reply, 0), encodeAddress(address, port)]);
}

/**
 * A datagram of an association. RFC 1928 §7.
 * @returns null when it is malformed, "fragment" when it is a part of one, which we do not put together
 */
export function decodeDatagram(datagram: Uint8Array): (Destination & { payload: Uint8Array }) | "fragment" | null {
  if (datagram.length < 5 || datagram[0] !== 0 || datagram[1] !== 0) return null;
  if (datagram[2] !== 0) return "fragment";
  const type = datagram[3];
  const start = type === ATYP_NAME ? 5 : 4;
  const length = addressLength(type) ?? (type === ATYP_NAME ? datagram[4] : null);
  if (length === null || length === 0 || datagram.length < start + length + 2) return null;
  const host = decodeHost(type, datagram.subarray(start, start + length));
  const at = start + length;
  const port = (datagram[at] << 8) | datagram[at + 1];
  if (host === null || port === 0) return null;
  return { host, port, payload: datagram.subarray(at + 2) };
}

export function encodeDatagram(address: string, port: number, payload: Uint8Array): Uint8Array {
  return Buffer.concat([Uint8Array.of(0, 0, 0), encodeAddress(address, port), payload]);
}

function encodeAddress(text: string, port: number): Uint8Array {
  const { family, address } = parseIp(text.replace(/%.*/, ""));
  return Uint8Array.of(family === 4 ? ATYP_IPV4 : ATYP_IPV6, ...address, port >> 8, port & 0xff);
}

function addressLength(type: number): number | null {
  if (type === ATYP_IPV4) return 4;
  return type === ATYP_IPV6 ? 16 : null;
}

/** null when a name has bytes that no name has: it goes to a resolver and into a log. */
function decodeHost(type: number, bytes: Uint8Array): string | null {
  if (type !== ATYP_NAME) return formatIp(bytes);
  const name = new TextDecoder("latin1").decode(bytes);
  // Some clients put an address in the place of a name.
  const ip = tryParseIp(name.replace(/^\[(.*)\]$/, "$1"));
  if (ip !== null) return formatIp(ip.address);
  return /^[\x21-\x7e]+$/.test(name) ? name : null;
}
