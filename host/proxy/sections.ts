// The sections that wireproxy's users have in their files: [Socks5], [http], [SNI], [TCPClientTunnel],
// [TCPServerTunnel], [UDPProxyTunnel], [STDIOTunnel], [Resolve], and CheckAlive and CheckAliveInterval of [Interface],
// WGConfig before the first section, $VARIABLE as a whole value. Names and keys are read in any case.
// Collected through the hooks of config.ts, so one parser and one form of errors serve all of a file. Pure.

import { ConfigError, type ConfigHooks, type KeySink, UnknownKeyError } from "../config.ts";
import { quote } from "../errors.ts";
import { formatIp, parseIp } from "../ip.ts";
import { parseBind, parseLocalTarget, parseTarget } from "./address.ts";
import { type ServiceSpec, checkLogin, noPath } from "./spec.ts";

/** Values in the order of a section's keys. */
interface Section {
  name: string;
  line: number;
  values: Map<string, { text: string; line: number }>;
}

export interface ProxySections {
  services: { spec: ServiceSpec; line: number }[];
  /** path of another file with [Interface] and [Peer] */
  wgConfig?: { path: string; line: number };
  checkAlive: CheckAlive;
  /** which addresses of a name are taken first */
  family: "auto" | "ipv4" | "ipv6";
}

export interface CheckAlive {
  /** addresses that must answer a ping; none = the last handshake tells */
  addresses: string[];
  intervalSec: number;
}

const CHECK_ALIVE_INTERVAL_SEC = 5;
const CHECK_ALIVE_INTERVAL_MAX_SEC = 86400;

/** Section names as their makers write them, and their keys. */
const SECTIONS: Record<string, string[]> = {
  Socks5: ["BindAddress", "Username", "Password"],
  http: ["BindAddress", "Username", "Password", "CertFile", "KeyFile"],
  SNI: ["BindAddress"],
  TCPClientTunnel: ["BindAddress", "Target"],
  TCPServerTunnel: ["ListenPort", "Target"],
  UDPProxyTunnel: ["BindAddress", "Target", "InactivityTimeout"],
  STDIOTunnel: ["Target"],
  Resolve: ["ResolveStrategy"],
};

/** Lines for a shell, which knows its variables itself (and which a proxy never runs). */
const COMMANDS = ["preup", "postup", "predown", "postdown"];

/** Keys that may come before the first section. */
const TOP = "";
const NAMES = new Map([TOP, ...Object.keys(SECTIONS)].map((name) => [name.toLowerCase(), name]));

/**
 * Hooks for one parseConfig, and what they have collected after it.
 * @param variable  the value of an environment variable, undefined when it is not set. @throws RangeError
 */
export function collectSections(variable: (name: string) => string | undefined): {
  hooks: ConfigHooks;
  finish: () => ProxySections;
} {
  const sections: Section[] = [];
  const checkAlive: CheckAlive = { addresses: [], intervalSec: CHECK_ALIVE_INTERVAL_SEC };
  let intervalLine = 0;
  const hooks: ConfigHooks = {
    section(name, line) {
      const known = NAMES.get(name);
      if (known === undefined) return undefined;
      const section: Section = { name: known, line, values: new Map() };
      sections.push(section);
      return sectionSink(section);
    },
    interfaceKey(key, value, line) {
      if (key === "checkalive") {
        const texts = value.split(",").map((text) => text.trim());
        checkAlive.addresses.push(...texts.map((text) => formatIp(parseIp(text).address)));
      } else if (key === "checkaliveinterval") {
        checkAlive.intervalSec = parseSeconds(value, 1, CHECK_ALIVE_INTERVAL_MAX_SEC);
        intervalLine = line;
      } else {
        return false;
      }
      return true;
    },
    expand: (value, key) => (COMMANDS.includes(key) ? value : expand(value, variable)),
  };
  const finish = (): ProxySections => {
    if (intervalLine > 0 && checkAlive.addresses.length === 0) {
      throw new ConfigError(intervalLine, "CheckAliveInterval: it needs a CheckAlive");
    }
    const result: ProxySections = { services: [], checkAlive, family: "auto" };
    for (const section of sections) finishSection(section, result);
    return result;
  };
  return { hooks, finish };
}

function sectionSink({ name, values }: Section): KeySink {
  const keys = name === TOP ? ["WGConfig"] : SECTIONS[name];
  return (key, text, line) => {
    const known = keys.find((each) => each.toLowerCase() === key.toLowerCase());
    if (known === undefined) {
      if (name === TOP) throw new UnknownKeyError("this place: [Interface] or [Peer] must come first", key);
      throw new UnknownKeyError(`[${name}]`, key);
    }
    if (values.has(known)) throw new RangeError("it stands twice in its section");
    values.set(known, { text, line });
  };
}

/** wireproxy's rule: a value that begins with $ is a variable's name, and $$ is a $. */
function expand(value: string, variable: (name: string) => string | undefined): string {
  if (!value.startsWith("$")) return value;
  if (value.startsWith("$$")) return value.slice(1);
  const name = value.slice(1);
  if (!/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(name)) throw new RangeError("after $ comes a variable's name; $$ is a $");
  const found = variable(name);
  if (found === undefined) throw new RangeError(`the environment variable ${name} is not set`);
  return found.trim();
}

/** Reads the values of one section. @throws ConfigError */
function finishSection(section: Section, result: ProxySections): void {
  const { name, values } = section;
  const read = <T>(key: string, parse: (text: string) => T): T => {
    const value = values.get(key);
    if (value === undefined) throw new ConfigError(section.line, `this [${name}] has no ${key}`);
    try {
      return parse(value.text);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new ConfigError(value.line, `${key}: ${error.message}`);
    }
  };
  const optional = <T>(key: string, parse: (text: string) => T): T | undefined =>
    (values.get(key)?.text ?? "") === "" ? undefined : read(key, parse);
  const add = (spec: ServiceSpec) => void result.services.push({ spec, line: section.line });
  const login = () => {
    const username = optional("Username", String);
    const password = optional("Password", String);
    if (username === undefined && password === undefined) return {};
    if (username === undefined) throw new ConfigError(section.line, `this [${name}] has a Password without a Username`);
    if (password === undefined) throw new ConfigError(section.line, `this [${name}] has a Username without a Password`);
    return { login: read("Username", () => checkLogin({ username, password })) };
  };

  switch (name) {
    case TOP: {
      const wgConfig = values.get("WGConfig");
      if (wgConfig) result.wgConfig = { path: wgConfig.text, line: wgConfig.line };
      break;
    }
    case "Socks5":
      add({ kind: "socks5", bind: read("BindAddress", parseBind), ...login() });
      break;
    case "http": {
      const certFile = optional("CertFile", String);
      const keyFile = optional("KeyFile", String);
      if ((certFile === undefined) !== (keyFile === undefined)) {
        throw new ConfigError(section.line, "this [http] has one of CertFile and KeyFile without the other");
      }
      const tls = certFile && keyFile ? { tls: { certFile, keyFile } } : {};
      add({ kind: "http", bind: read("BindAddress", parseBind), ...login(), ...tls });
      break;
    }
    case "SNI":
      add({ kind: "sni", bind: read("BindAddress", parseBind) });
      break;
    case "TCPClientTunnel":
      add({ kind: "forward", bind: read("BindAddress", parseBind), target: read("Target", parseTarget) });
      break;
    case "TCPServerTunnel": {
      const inner = { host: "", port: read("ListenPort", parsePort) };
      add({ kind: "reverse", inner, target: read("Target", parseLocalTarget) });
      break;
    }
    case "UDPProxyTunnel": {
      const bind = read("BindAddress", (text) => noPath(parseBind(text)));
      const idleSec = optional("InactivityTimeout", (text) => parseSeconds(text, 0, CHECK_ALIVE_INTERVAL_MAX_SEC));
      const idle = idleSec === undefined ? {} : { idleSec };
      add({ kind: "udp-forward", bind, target: read("Target", parseTarget), ...idle });
      break;
    }
    case "STDIOTunnel":
      add({ kind: "stdio", target: read("Target", parseTarget) });
      break;
    case "Resolve":
      result.family = optional("ResolveStrategy", parseStrategy) ?? "auto";
      break;
  }
}

function parsePort(text: string): number {
  if (!/^[1-9]\d{0,4}$/.test(text) || Number(text) > 0xffff) throw new RangeError(`${quote(text)} is not in 1..65535`);
  return Number(text);
}

function parseSeconds(text: string, min: number, max: number): number {
  if (!/^(?:0|[1-9]\d{0,5})$/.test(text) || Number(text) < min || Number(text) > max) {
    throw new RangeError(`${quote(text)} is not a number of seconds in ${min}..${max}`);
  }
  return Number(text);
}

function parseStrategy(text: string): "auto" | "ipv4" | "ipv6" {
  const strategy = text.toLowerCase();
  if (strategy === "auto" || strategy === "ipv4" || strategy === "ipv6") return strategy;
  throw new RangeError(`${quote(text)} is none of auto, ipv4, ipv6`);
}
