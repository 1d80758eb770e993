// The text of the cross-platform userspace API: requests read, states and replies written. No socket here.
// Source: https://www.wireguard.com/xplatform/ and what `wg` and wgctrl do with it.
// A request is read line by line as it arrives and is complete before anything is applied; wireguard-go applies line by
// line, so that a bad last line leaves half a change behind. Errors name the key and never a value of a secret one.

import { formatEndpoint, parseEndpoint, type InterfaceIndex } from "./endpoint.ts";
import { ERRNO, WasmguardError, quote } from "./errors.ts";
import { formatPrefix, parsePrefix } from "./ip.ts";
import type { DeviceEvent, EventName } from "./events.ts";
import { KEY_LEN, decodeBase64Key, decodeHexKey, encodeBase64Key, encodeHexKey } from "./keys.ts";
import { type DeviceChange, type DeviceState, type PeerChange, type PeerState, type Statistics, createPeerChange } from "./model.ts";

/** What a request asks for. `statistics` and `events` are ours: other WireGuards refuse them. */
export type RequestKind = "get" | "set" | "statistics" | "events";

export type Request = { kind: "get" | "statistics" | "events" } | { kind: "set"; change: DeviceChange };

/** What a reader makes of a request: one to answer, or one already refused. */
export type Operation = Request | { kind: "refused"; of: RequestKind; error: UapiError };

export class UapiError extends WasmguardError {
  declare readonly errno: number;

  constructor(code: "EPROTO" | "EINVAL" | "EMSGSIZE", message: string) {
    super(code, message, { errno: ERRNO[code] });
    this.name = "UapiError";
  }
}

/** bytes of a line without its end; the longest that means anything, a key in hex, has 78 */
export const LINE_MAX_LEN = 4096;
/** bytes of a request: 10,000 peers with 250 allowed IPs each */
export const REQUEST_MAX_LEN = 64 << 20;

const UINT16_MAX = 0xffff;
const UINT32_MAX = 0xffffffff;

type Setter<T> = (target: T, value: string, interfaceIndex: InterfaceIndex | undefined) => void;

const DEVICE_KEYS: Record<string, Setter<DeviceChange>> = {
  private_key: (change, value) => void (change.privateKey = decodeHexKey(value)),
  listen_port: (change, value) => void (change.listenPort = parseInteger(value, UINT16_MAX)),
  fwmark: (change, value) => void (change.fwmark = parseInteger(value, UINT32_MAX)),
  replace_peers: (change, value) => void (change.replacePeers = parseTrue(value)),
};

const PEER_KEYS: Record<string, Setter<PeerChange>> = {
  remove: (peer, value) => void (peer.remove = parseTrue(value)),
  update_only: (peer, value) => void (peer.updateOnly = parseTrue(value)),
  preshared_key: (peer, value) => void (peer.presharedKey = decodeHexKey(value)),
  endpoint: (peer, value, interfaceIndex) => void (peer.endpoint = parseEndpoint(value, interfaceIndex)),
  persistent_keepalive_interval: (peer, value) => void (peer.persistentKeepalive = parseInteger(value, UINT16_MAX)),
  replace_allowed_ips: (peer, value) => {
    peer.replaceAllowedIps = parseTrue(value);
    peer.allowedIps.length = 0; // whatever came before is replaced too
  },
  allowed_ip: (peer, value) => {
    const remove = value.startsWith("-");
    peer.allowedIps.push({ ip: parsePrefix(remove ? value.slice(1) : value), remove });
  },
  protocol_version: (_peer, value) => {
    if (value !== "1") throw new UapiError("EPROTO", `protocol_version ${quote(value)} is not 1`);
  },
};
// Names from outside must not find what every object inherits.
Object.setPrototypeOf(DEVICE_KEYS, null);
Object.setPrototypeOf(PEER_KEYS, null);

const KINDS: RequestKind[] = ["get", "set", "statistics", "events"];

/** Reads the lines of one request, the empty one not among them; `line` throws UapiError at the first that is wrong. */
class RequestParser {
  /** what the first line asks for; undefined before it */
  kind: RequestKind | undefined;
  readonly #change: DeviceChange = { replacePeers: false, peers: [] };
  readonly #interfaceIndex: InterfaceIndex | undefined;
  #peer: PeerChange | undefined;

  constructor(interfaceIndex?: InterfaceIndex) {
    this.#interfaceIndex = interfaceIndex;
  }

  line(text: string): void {
    if (this.kind === undefined) this.#begin(text);
    else if (this.kind !== "set") throw new UapiError("EINVAL", `${this.kind}=1 takes no further lines`);
    else this.#set(text);
  }

  end(): Request {
    return this.kind === undefined || this.kind === "set" ? { kind: "set", change: this.#change } : { kind: this.kind };
  }

  #begin(text: string): void {
    const kind = KINDS.find((kind) => text === `${kind}=1`);
    if (!kind) throw new UapiError("EPROTO", "a request begins with get=1 or set=1");
    this.kind = kind;
  }

  #set(text: string): void {
    const equals = text.indexOf("=");
    if (equals < 0) throw new UapiError("EPROTO", "a line has no =");
    const key = text.slice(0, equals);
    const value = text.slice(equals + 1);
    try {
      this.#assign(key, value);
    } catch (error) {
      if (error instanceof UapiError || !(error instanceof RangeError)) throw error;
      throw new UapiError("EINVAL", `${key}: ${error.message}`);
    }
  }

  #assign(key: string, value: string): void {
    if (key === "public_key") {
      this.#openPeer(decodeHexKey(value));
    } else if (this.#peer === undefined) {
      if (DEVICE_KEYS[key] === undefined) throw unknownKey(key, "of a device");
      DEVICE_KEYS[key](this.#change, value, this.#interfaceIndex);
    } else {
      if (PEER_KEYS[key] === undefined) throw unknownKey(key, "of a peer");
      PEER_KEYS[key](this.#peer, value, this.#interfaceIndex);
      if (this.#peer.remove) this.#removePeer(this.#peer);
    }
  }

  #openPeer(publicKey: Uint8Array): void {
    this.#peer = createPeerChange(publicKey);
    this.#change.peers.push(this.#peer);
  }

  /** The lines of a peer that goes, before and after, are read and count for nothing. */
  #removePeer(peer: PeerChange): void {
    const { peers } = this.#change;
    peers[peers.length - 1] = { ...createPeerChange(peer.publicKey), remove: true };
    peer.allowedIps.length = 0;
  }
}

/**
 * Reads one request whose lines are all there.
 * @param lines  without line ends and without the empty last line
 * @throws UapiError
 */
export function parseRequest(lines: Iterable<string>, interfaceIndex?: InterfaceIndex): Request {
  const parser = new RequestParser(interfaceIndex);
  for (const line of lines) parser.line(line);
  if (parser.kind === undefined) throw new UapiError("EPROTO", "a request begins with get=1 or set=1");
  return parser.end();
}

/**
 * Makes operations of the bytes of a connection, however they are cut. Time is linear in the bytes, memory in those of
 * one request, and both are bounded. A request with a bad line is refused at its end, so the next one is understood;
 * after bytes that cannot be one (no get or set, too long) the reader is `broken` and reads no more.
 */
export class RequestReader {
  broken = false;
  readonly #interfaceIndex: InterfaceIndex | undefined;
  readonly #decoder = new TextDecoder("latin1"); // a character a byte: no key or value goes beyond ASCII
  #parser: RequestParser;
  #error: UapiError | undefined;
  #partial = ""; // begin of a line whose end has not arrived
  #length = 0; // bytes of this request so far

  constructor(interfaceIndex?: InterfaceIndex) {
    this.#interfaceIndex = interfaceIndex;
    this.#parser = new RequestParser(interfaceIndex);
  }

  /** Whether nothing of a next request has arrived. */
  get idle(): boolean {
    return this.#length === 0;
  }

  push(chunk: Uint8Array): Operation[] {
    const operations: Operation[] = [];
    const text = this.#decoder.decode(chunk);
    let start = 0;
    while (!this.broken && start < text.length) {
      const newline = text.indexOf("\n", start);
      const end = newline < 0 ? text.length : newline;
      this.#length += end - start + (newline < 0 ? 0 : 1);
      if (this.#partial.length + end - start > LINE_MAX_LEN) this.#break(operations, "line", LINE_MAX_LEN);
      else if (this.#length > REQUEST_MAX_LEN) this.#break(operations, "request", REQUEST_MAX_LEN);
      else if (newline < 0) this.#partial += text.slice(start);
      else this.#line(operations, this.#partial + text.slice(start, end));
      if (newline >= 0) this.#partial = "";
      start = end + 1;
    }
    return operations;
  }

  #line(operations: Operation[], line: string): void {
    if (line === "" && this.#parser.kind !== undefined) {
      operations.push(this.#error ? this.#refusal(this.#error) : this.#parser.end());
      this.#reset();
      return;
    }
    if (this.#error !== undefined) return;
    try {
      this.#parser.line(line);
    } catch (error) {
      if (!(error instanceof UapiError)) throw error;
      this.#error = error;
      if (this.#parser.kind !== undefined) return;
      this.broken = true;
      operations.push(this.#refusal(error));
    }
  }

  #break(operations: Operation[], what: string, limit: number): void {
    this.broken = true;
    operations.push(this.#refusal(new UapiError("EMSGSIZE", `a ${what} is longer than ${limit} bytes`)));
    this.#reset();
  }

  #refusal(error: UapiError): Operation {
    return { kind: "refused", of: this.#parser.kind ?? "set", error };
  }

  #reset(): void {
    this.#parser = new RequestParser(this.#interfaceIndex);
    this.#error = undefined;
    this.#length = 0;
  }
}

/**
 * A whole reply. `wg` reads the errno of a set as a signed number and turns its sign, that of a get as bare digits:
 * only -N after a set and N after a get print the right message.
 * @param errno  positive, 0 = done
 * @param lines  what a get found, from formatState
 */
export function formatReply(of: RequestKind, errno: number, lines = ""): string {
  return `${lines}errno=${of === "set" && errno > 0 ? -errno : errno}\n\n`;
}

/** The lines of a get, in the order that wireguard-go gives them. */
export function formatState(state: DeviceState): string {
  const lines: string[] = [];
  if (state.privateKey !== null) lines.push(`private_key=${encodeHexKey(state.privateKey)}`);
  if (state.listenPort !== 0) lines.push(`listen_port=${state.listenPort}`);
  if (state.fwmark !== 0) lines.push(`fwmark=${state.fwmark}`);
  for (const peer of state.peers) formatPeer(lines, peer);
  lines.push("");
  return lines.join("\n");
}

/** The lines of a statistics request: `drop=REASON COUNT`, `event=NAME COUNT`. */
export function formatStatistics({ drops, events }: Statistics): string {
  const lines = Object.entries(drops).map(([reason, count]) => `drop=${reason} ${count}\n`);
  return lines.concat(Object.entries(events).map(([name, count]) => `event=${name} ${count}\n`)).join("");
}

/** Reads them; lines that it does not know are passed over. @throws UapiError */
export function parseStatistics(lines: Iterable<string>): Statistics {
  const statistics: Statistics = { drops: {}, events: {} };
  for (const line of lines) {
    const [, key, name, count] = /^(drop|event)=([a-zA-Z0-9]+) (\d{1,20})$/.exec(line) ?? [];
    if (key === "drop") statistics.drops[name] = BigInt(count);
    else if (key === "event") statistics.events[name] = Number(count);
    else if (!line.includes("=")) throw new UapiError("EPROTO", "a line has no =");
  }
  return statistics;
}

/** An event of an events request, which goes on until the client ends it: its lines and an empty one. */
export function formatEvent({ name, peer, argument, time }: DeviceEvent): string {
  const lines = [`event=${name}`, `argument=${argument}`, `time_ms=${time}`];
  if (peer) lines.push(`public_key=${encodeHexKey(decodeBase64Key(peer))}`);
  return `${lines.join("\n")}\n\n`;
}

/** @throws UapiError */
export function parseEvent(lines: Iterable<string>): DeviceEvent {
  const event: DeviceEvent = { name: "roamed", peer: null, argument: 0, time: 0 };
  for (const line of lines) {
    const equals = line.indexOf("=");
    const value = line.slice(equals + 1);
    if (equals < 0) throw new UapiError("EPROTO", "a line has no =");
    if (line.startsWith("event=")) event.name = value as EventName;
    else if (line.startsWith("argument=")) event.argument = parseInteger(value, UINT32_MAX);
    else if (line.startsWith("time_ms=")) event.time = parseInteger(value, Number.MAX_SAFE_INTEGER);
    else if (line.startsWith("public_key=")) event.peer = encodeBase64Key(decodeHexKey(value));
  }
  return event;
}

function formatPeer(lines: string[], peer: PeerState): void {
  const { sec, nsec } = peer.lastHandshake;
  lines.push(
    `public_key=${encodeHexKey(peer.publicKey)}`,
    `preshared_key=${encodeHexKey(peer.presharedKey)}`,
    "protocol_version=1",
  );
  if (peer.endpoint !== null) lines.push(`endpoint=${formatEndpoint(peer.endpoint)}`);
  lines.push(
    `last_handshake_time_sec=${sec}`,
    `last_handshake_time_nsec=${sec > 0 && nsec === 0 ? 1 : nsec}`, // wgctrl takes 0 ns for "never"
    `tx_bytes=${peer.txBytes}`,
    `rx_bytes=${peer.rxBytes}`,
    `persistent_keepalive_interval=${peer.persistentKeepalive}`,
  );
  for (const ip of peer.allowedIps) lines.push(`allowed_ip=${formatPrefix(ip)}`);
}

/**
 * Reads the lines of a get, as a client does; keys that it does not know are passed over.
 * @throws UapiError for lines that no get writes
 */
export function parseState(lines: Iterable<string>): DeviceState {
  const state: DeviceState = { privateKey: null, listenPort: 0, fwmark: 0, peers: [] };
  let peer: PeerState | undefined;
  for (const line of lines) {
    const equals = line.indexOf("=");
    if (equals < 0) throw new UapiError("EPROTO", "a line has no =");
    const key = line.slice(0, equals);
    const value = line.slice(equals + 1);
    try {
      if (key === "public_key") state.peers.push((peer = createPeerState(decodeHexKey(value))));
      else if (peer === undefined) readDeviceLine(state, key, value);
      else readPeerLine(peer, key, value);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new UapiError("EINVAL", `${key}: ${error.message}`);
    }
  }
  return state;
}

function createPeerState(publicKey: Uint8Array): PeerState {
  return {
    publicKey,
    presharedKey: new Uint8Array(KEY_LEN),
    endpoint: null,
    lastHandshake: { sec: 0, nsec: 0 },
    txBytes: 0n,
    rxBytes: 0n,
    persistentKeepalive: 0,
    allowedIps: [],
  };
}

function readDeviceLine(state: DeviceState, key: string, value: string): void {
  if (key === "private_key") state.privateKey = decodeHexKey(value);
  else if (key === "listen_port") state.listenPort = parseInteger(value, UINT16_MAX);
  else if (key === "fwmark") state.fwmark = parseInteger(value, UINT32_MAX);
}

function readPeerLine(peer: PeerState, key: string, value: string): void {
  if (key === "preshared_key") peer.presharedKey = decodeHexKey(value);
  else if (key === "endpoint") peer.endpoint = parseEndpoint(value);
  else if (key === "last_handshake_time_sec") peer.lastHandshake.sec = parseInteger(value, Number.MAX_SAFE_INTEGER);
  else if (key === "last_handshake_time_nsec") peer.lastHandshake.nsec = parseInteger(value, UINT32_MAX);
  else if (key === "tx_bytes") peer.txBytes = parseCount(value);
  else if (key === "rx_bytes") peer.rxBytes = parseCount(value);
  else if (key === "persistent_keepalive_interval") peer.persistentKeepalive = parseInteger(value, UINT16_MAX);
  else if (key === "allowed_ip") peer.allowedIps.push(parsePrefix(value));
}

function parseInteger(value: string, max: number): number {
  if (!/^(?:0|[1-9]\d{0,15})$/.test(value) || Number(value) > max) {
    throw new RangeError(`${quote(value)} is not a number in 0..${max}`);
  }
  return Number(value);
}

function parseCount(value: string): bigint {
  if (!/^(?:0|[1-9]\d{0,19})$/.test(value)) throw new RangeError(`${quote(value)} is not a count`);
  return BigInt(value);
}

function parseTrue(value: string): true {
  if (value !== "true") throw new RangeError(`${quote(value)} is not true`);
  return true;
}

/** Shows only what can be the name of a key: whatever else came may be a secret that lost its way. */
function unknownKey(key: string, where: string): UapiError {
  return new UapiError("EINVAL", `${/^[a-z_]{1,32}$/.test(key) ? key : "a line"} is not a key ${where}`);
}
