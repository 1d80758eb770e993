// Configuration files as wg(8) and wg-quick(8) read them: [Interface] and [Peer] sections of `Key = value`, comments
// from # on, keys and sections in any case. Pure: text in, typed values out. A host name of an endpoint stays a name
// until the caller has resolved it, commands (PreUp ...) stay text. Errors name the line, the key and what is wrong,
// and never a key's value.

import { type HostPort, type InterfaceIndex, isAddress, splitHostPort, toEndpoint } from "./endpoint.ts";
import { WasmguardError, quote } from "./errors.ts";
import type { AllowedIp, InterfaceAddress, IpAddress } from "./ip.ts";
import { parseInterfaceAddress, parsePrefix, tryParseIp } from "./ip.ts";
import { KEY_LEN, decodeBase64Key } from "./keys.ts";
import { type DeviceChange, type PeerChange, createPeerChange } from "./model.ts";

export interface InterfaceConfig {
  privateKey?: Uint8Array;
  listenPort?: number;
  /** 0 = off */
  fwmark?: number;
  addresses: InterfaceAddress[];
  dns: IpAddress[];
  searchDomains: string[];
  mtu?: number;
  /** "auto", "off", or a routing table by number or name */
  table?: string;
  preUp: string[];
  postUp: string[];
  preDown: string[];
  postDown: string[];
  saveConfig: boolean;
}

export interface PeerConfig {
  publicKey: Uint8Array;
  presharedKey?: Uint8Array;
  allowedIps: AllowedIp[];
  /** the host is an address or a name */
  endpoint?: HostPort;
  /** seconds, 0 = off */
  persistentKeepalive?: number;
}

export interface Config {
  interface: InterfaceConfig;
  peers: PeerConfig[];
}

export class ConfigError extends WasmguardError {
  /** 1 for the first */
  readonly line: number;

  constructor(line: number, message: string) {
    super("ERR_CONFIG", `line ${line}: ${message}`);
    this.name = "ConfigError";
    this.line = line;
  }
}

/** A key that its section does not have. */
export class UnknownKeyError extends RangeError {
  constructor(section: string, key: string) {
    super(`${keyName(key)} is not a key of ${section}`);
  }
}

/** Takes one key of a section. @throws RangeError when it is not one of its keys, or not a value of it */
export type KeySink = (key: string, value: string, line: number) => void;

/** What others put into the same file (the proxy's sections): they are handed over with their lines, in order. */
export interface ConfigHooks {
  /** Begins another section, by its name in lower case; "" is what stands before the first. undefined = unknown. */
  section?(name: string, line: number): KeySink | undefined;
  /** A key of [Interface] that is not wg-quick's, in lower case. @returns false when it is unknown */
  interfaceKey?(key: string, value: string, line: number): boolean;
  /** Every value before it is read, with its key in lower case: variables are replaced here. @throws RangeError */
  expand?(value: string, key: string): string;
}

/** RFC 791: no IPv4 link has less */
const MTU_MIN = 68;
const UINT16_MAX = 0xffff;
const UINT32_MAX = 0xffffffff;

type Setter<T> = (target: T, value: string) => void;
type PeerDraft = Omit<PeerConfig, "publicKey"> & { publicKey?: Uint8Array; line: number };

const INTERFACE_KEYS = new Map<string, Setter<InterfaceConfig>>([
  ["privatekey", (config, value) => void (config.privateKey = decodeBase64Key(value))],
  ["listenport", (config, value) => void (config.listenPort = parseNumber(value, 0, UINT16_MAX))],
  ["fwmark", (config, value) => void (config.fwmark = parseFwmark(value))],
  ["address", (config, value) => void config.addresses.push(...list(value).map(parseBareAddress))],
  ["dns", (config, value) => list(value).forEach((entry) => addDns(config, entry))],
  ["mtu", (config, value) => void (config.mtu = parseNumber(value, MTU_MIN, UINT16_MAX))],
  ["table", (config, value) => void (config.table = parseTable(value))],
  ["preup", (config, value) => void config.preUp.push(value)],
  ["postup", (config, value) => void config.postUp.push(value)],
  ["predown", (config, value) => void config.preDown.push(value)],
  ["postdown", (config, value) => void config.postDown.push(value)],
  ["saveconfig", (config, value) => void (config.saveConfig = parseBoolean(value))],
]);

const PEER_KEYS = new Map<string, Setter<PeerDraft>>([
  ["publickey", (peer, value) => void (peer.publicKey = decodeBase64Key(value))],
  ["presharedkey", (peer, value) => void (peer.presharedKey = decodeBase64Key(value))],
  ["allowedips", (peer, value) => void peer.allowedIps.push(...list(value).map((ip) => parsePrefix(ip, true)))],
  ["endpoint", (peer, value) => void (peer.endpoint = parseHostPort(value))],
  ["persistentkeepalive", (peer, value) => void (peer.persistentKeepalive = parseKeepalive(value))],
]);

/** @throws ConfigError */
export function parseConfig(text: string, hooks: ConfigHooks = {}): Config {
  const config: InterfaceConfig = {
    addresses: [],
    dns: [],
    searchDomains: [],
    preUp: [],
    postUp: [],
    preDown: [],
    postDown: [],
    saveConfig: false,
  };
  const peers: PeerDraft[] = [];
  const interfaceKey: KeySink = (key, value, line) => {
    if (!INTERFACE_KEYS.has(key.toLowerCase()) && hooks.interfaceKey?.(key.toLowerCase(), value, line)) return;
    assign(INTERFACE_KEYS, config, "[Interface]", key, value);
  };
  let set: KeySink | undefined = hooks.section?.("", 0);

  text.split("\n").forEach((raw, index) => {
    const number = index + 1;
    const line = raw.replace(/#.*/, "").trim();
    if (line === "") return;
    if (/^\[interface\]$/i.test(line)) {
      set = interfaceKey;
    } else if (/^\[peer\]$/i.test(line)) {
      const peer: PeerDraft = { allowedIps: [], line: number };
      peers.push(peer);
      set = (key, value) => assign(PEER_KEYS, peer, "[Peer]", key, value);
    } else if (line.startsWith("[")) {
      set = otherSection(hooks, line, number);
    } else {
      const equals = line.indexOf("=");
      if (equals < 0) throw new ConfigError(number, "a line is Key = value");
      if (set === undefined) throw new ConfigError(number, "a [Interface] or [Peer] must come first");
      setKey(set, hooks, line.slice(0, equals).trim(), line.slice(equals + 1).trim(), number);
    }
  });
  return { interface: config, peers: peers.map(finishPeer) };
}

/** Host names of endpoints that toDeviceChange wants resolved, each once. */
export function unresolvedHosts(config: Config): string[] {
  const hosts = config.peers.flatMap((peer) => (peer.endpoint ? [peer.endpoint.host] : []));
  return [...new Set(hosts)].filter((host) => !isAddress(host));
}

/**
 * The change that makes a device exactly this, as `wg setconf` would: what the file does not name is off.
 * @param resolved  addresses of all unresolvedHosts
 * @throws WasmguardError ERR_UNRESOLVED_HOST
 */
export function toDeviceChange(
  config: Config,
  resolved: ReadonlyMap<string, IpAddress> = new Map(),
  interfaceIndex?: InterfaceIndex,
): DeviceChange {
  return {
    privateKey: config.interface.privateKey ?? new Uint8Array(KEY_LEN),
    listenPort: config.interface.listenPort ?? 0,
    fwmark: config.interface.fwmark ?? 0,
    replacePeers: true,
    peers: config.peers.map((peer) => toPeerChange(peer, resolved, interfaceIndex)),
  };
}

function toPeerChange(
  peer: PeerConfig,
  resolved: ReadonlyMap<string, IpAddress>,
  interfaceIndex?: InterfaceIndex,
): PeerChange {
  const change = createPeerChange(peer.publicKey);
  change.replaceAllowedIps = true;
  change.allowedIps = peer.allowedIps.map((ip) => ({ ip, remove: false }));
  if (peer.presharedKey) change.presharedKey = peer.presharedKey;
  if (peer.persistentKeepalive !== undefined) change.persistentKeepalive = peer.persistentKeepalive;
  if (peer.endpoint) {
    const { host, port } = peer.endpoint;
    const ip = resolved.get(host);
    if (ip) change.endpoint = { ...ip, port, scope: 0 };
    else if (isAddress(host)) change.endpoint = toEndpoint(host, port, interfaceIndex);
    else throw new WasmguardError("ERR_UNRESOLVED_HOST", `Endpoint: the address of ${host} is not known`);
  }
  return change;
}

function otherSection(hooks: ConfigHooks, line: string, number: number): KeySink {
  const name = /^\[([a-z0-9]{1,32})\]$/i.exec(line)?.[1];
  const sink = name === undefined ? undefined : hooks.section?.(name.toLowerCase(), number);
  if (sink !== undefined) return sink;
  if (hooks.section === undefined) throw new ConfigError(number, "a section is [Interface] or [Peer]");
  throw new ConfigError(number, `${name === undefined ? "this" : `[${name}]`} is not a section that is known here`);
}

/** One line; whatever is wrong with it gets the line and the key. */
function setKey(set: KeySink, hooks: ConfigHooks, key: string, value: string, line: number): void {
  try {
    set(key, hooks.expand?.(value, key.toLowerCase()) ?? value, line);
  } catch (error) {
    if (error instanceof UnknownKeyError) throw new ConfigError(line, error.message);
    if (!(error instanceof RangeError)) throw error;
    throw new ConfigError(line, `${keyName(key)}: ${error.message}`);
  }
}

/** Anything but a word may be a secret that lost its way. */
function keyName(key: string): string {
  return /^[a-z][a-z0-9]{0,31}$/i.test(key) ? key : "this";
}

function assign<T>(setters: Map<string, Setter<T>>, target: T, section: string, key: string, value: string): void {
  const set = setters.get(key.toLowerCase());
  if (set === undefined) throw new UnknownKeyError(section, key);
  set(target, value);
}

function finishPeer({ line, publicKey, ...peer }: PeerDraft): PeerConfig {
  if (publicKey === undefined) throw new ConfigError(line, "this [Peer] has no PublicKey");
  return { publicKey, ...peer };
}

/** Values between commas; an empty text is an empty list. */
function list(value: string): string[] {
  return value === "" ? [] : value.split(",").map((entry) => entry.trim());
}

function parseBareAddress(text: string): InterfaceAddress {
  return parseInterfaceAddress(text, true);
}

function addDns(config: InterfaceConfig, entry: string): void {
  const ip = tryParseIp(entry);
  if (ip !== null) config.dns.push(ip);
  else config.searchDomains.push(checkHostName(entry));
}

function parseHostPort(value: string): HostPort {
  const { host, port } = splitHostPort(value);
  if (!isAddress(host)) checkHostName(host);
  return { host, port };
}

/** RFC 1123 §2.1, and the underscores that people use; a name of digits and dots is an address gone wrong. */
function checkHostName(host: string): string {
  if (!/^[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_.])?$/i.test(host) || host.includes("..") || /^[\d.]+$/.test(host)) {
    throw new RangeError(`${quote(host)} is neither an address nor a host name`);
  }
  return host;
}

function parseNumber(value: string, min: number, max: number): number {
  if (!/^(?:0|[1-9]\d{0,9})$/.test(value) || Number(value) < min || Number(value) > max) {
    throw new RangeError(`${quote(value)} is not a number in ${min}..${max}`);
  }
  return Number(value);
}

function parseKeepalive(value: string): number {
  return /^off$/i.test(value) ? 0 : parseNumber(value, 0, UINT16_MAX);
}

function parseFwmark(value: string): number {
  if (/^off$/i.test(value)) return 0;
  return /^0x[0-9a-f]{1,8}$/i.test(value) ? Number(value) : parseNumber(value, 0, UINT32_MAX);
}

function parseTable(value: string): string {
  if (!/^[a-z0-9_.-]{1,32}$/i.test(value)) throw new RangeError(`${quote(value)} is not auto, off, a number or a name`);
  return value;
}

function parseBoolean(value: string): boolean {
  if (value !== "true" && value !== "false") throw new RangeError(`${quote(value)} is neither true nor false`);
  return value === "true";
}
