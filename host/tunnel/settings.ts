// The configuration of a tunnel, in any of its three forms: the text of a wg-quick file, what parseConfig makes of one,
// or a plain object of strings. One grammar for all: the plain object is written as a file, a line a value, and read by
// config.ts; an error there names the line, and the line knows the path it came from (`peers[0].endpoint`). A second
// reader for objects was rejected: the two would differ in what they take.
//
// What a file says about the machine around it (FwMark, Table, PreUp ..., SaveConfig) has no meaning here: it is passed over.

import { type Config, ConfigError, parseConfig } from "../config.ts";
import { quote, WasmguardError } from "../errors.ts";

export interface PeerSettings {
  /** base64, as every key here */
  publicKey: string;
  presharedKey?: string;
  /** "10.0.0.0/24"; an address alone is itself */
  allowedIps: readonly string[];
  /** "host:port"; a peer without one must call first */
  endpoint?: string;
  /** seconds, 0 = off */
  persistentKeepalive?: number;
}

/** A tunnel as a plain object. */
export interface TunnelSettings {
  privateKey: string;
  /** ours inside the tunnel: "10.0.0.2/32" */
  addresses: readonly string[];
  /** name servers (addresses) and search domains (names) */
  dns?: readonly string[];
  /** default 1420 */
  mtu?: number;
  /** default: any free port */
  listenPort?: number;
  peers: readonly PeerSettings[];
}

export type TunnelConfig = string | Config | TunnelSettings;

/** IPv6 has no link with less, RFC 8200 §5. */
const IPV6_MTU_MIN = 1280;

/** @throws ConfigError that names line and key, or WasmguardError ERR_CONFIG that names the path; never a key's value */
export function readConfig(conf: TunnelConfig): Config {
  let config: Config;
  if (typeof conf === "string") config = parseConfig(conf);
  else if (conf !== null && typeof conf === "object" && "interface" in conf) config = conf;
  else config = readSettings(conf);
  checkUsable(config);
  return config;
}

/** @throws WasmguardError ERR_CONFIG that names the path */
export function readPeer(settings: PeerSettings): Config["peers"][number] {
  const draft = new Draft();
  draft.peer(settings, "");
  return draft.read().peers[0];
}

function readSettings(settings: TunnelSettings): Config {
  if (settings === null || typeof settings !== "object") {
    throw new TypeError("Cannot read a configuration: it is neither text nor an object");
  }
  const draft = new Draft();
  const { privateKey, addresses, dns, mtu, listenPort, peers } = settings;
  draft.refuseOthers(settings, ["privateKey", "addresses", "dns", "mtu", "listenPort", "peers"], "");
  draft.section("[Interface]", "");
  draft.text("PrivateKey", privateKey, "privateKey", true);
  draft.list("Address", addresses, "addresses", true);
  draft.list("DNS", dns, "dns");
  draft.number("MTU", mtu, "mtu");
  draft.number("ListenPort", listenPort, "listenPort");
  if (!Array.isArray(peers)) throw refuse("peers", "must be a list");
  peers.forEach((peer: PeerSettings, i) => draft.peer(peer, `peers[${i}]`));
  return draft.read();
}

/** A file in the making: its lines, and where each came from. */
class Draft {
  readonly #lines: string[] = [];
  readonly #paths: string[] = [];

  section(name: string, path: string): void {
    this.#add(name, path);
  }

  peer(peer: PeerSettings, path: string): void {
    if (peer === null || typeof peer !== "object") throw refuse(path || "peer", "must be an object");
    const at = (key: string): string => (path ? `${path}.${key}` : key);
    const { publicKey, presharedKey, allowedIps, endpoint, persistentKeepalive } = peer;
    this.refuseOthers(peer, ["publicKey", "presharedKey", "allowedIps", "endpoint", "persistentKeepalive"], path);
    this.section("[Peer]", path);
    this.text("PublicKey", publicKey, at("publicKey"), true);
    this.text("PresharedKey", presharedKey, at("presharedKey"));
    this.list("AllowedIPs", allowedIps, at("allowedIps"), true);
    this.text("Endpoint", endpoint, at("endpoint"));
    this.number("PersistentKeepalive", persistentKeepalive, at("persistentKeepalive"));
  }

  text(key: string, value: unknown, path: string, required = false): void {
    if (value === undefined && !required) return;
    if (typeof value !== "string") throw refuse(path, value === undefined ? "is missing" : "must be a string");
    // What would be a comment or another line of the file.
    if (/[#\r\n]/.test(value)) throw refuse(path, "has a character that no value has");
    this.#add(`${key} = ${value}`, path);
  }

  number(key: string, value: unknown, path: string): void {
    if (value === undefined) return;
    if (typeof value !== "number") throw refuse(path, "must be a number");
    this.#add(`${key} = ${value}`, path);
  }

  list(key: string, values: unknown, path: string, required = false): void {
    if (values === undefined && !required) return;
    if (!Array.isArray(values)) throw refuse(path, values === undefined ? "is missing" : "must be a list");
    values.forEach((value, i) => {
      this.text(key, value, `${path}[${i}]`, true);
      if (/^\s*$|,/.test(value as string)) throw refuse(`${path}[${i}]`, "must be one value");
    });
  }

  /** A misspelt key would be a setting that silently is none. */
  refuseOthers(object: object, known: string[], path: string): void {
    for (const key of Object.keys(object)) {
      if (!known.includes(key)) {
        throw refuse(path || "configuration", `${quote(key)} is not one of ${known.join(", ")}`);
      }
    }
  }

  read(): Config {
    try {
      return parseConfig(this.#lines.join("\n"));
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw refuse(this.#paths[error.line - 1], error.message.replace(/^line \d+: (?:\w+: )?/, ""));
    }
  }

  #add(line: string, path: string): void {
    this.#lines.push(line);
    this.#paths.push(path);
  }
}

function checkUsable({ interface: own, peers }: Config): void {
  if (!own.privateKey) throw refuse("[Interface]", "has no PrivateKey");
  if (own.addresses.length === 0) {
    throw refuse("[Interface]", "has no Address: the tunnel would have none to talk from");
  }
  if (own.mtu !== undefined && own.mtu < IPV6_MTU_MIN && own.addresses.some((address) => address.family === 6)) {
    throw refuse("MTU", `${own.mtu} is less than the ${IPV6_MTU_MIN} that the IPv6 address needs`);
  }
  if (!Array.isArray(peers)) throw refuse("peers", "must be a list");
}

function refuse(path: string, problem: string): WasmguardError {
  return new WasmguardError("ERR_CONFIG", `${path}: ${problem}`);
}
