// A configuration file of the proxy: a wg-quick file with the proxy's sections in it, or a file of those sections that
// names the wg-quick file by WGConfig. Read whole and checked whole; errors name the file and the line.

import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Config, ConfigError, parseConfig } from "../config.ts";
import { WasmguardError } from "../errors.ts";
import { formatPrefix, parsePrefix } from "../ip.ts";
import { type ProxySections, collectSections } from "./sections.ts";

export interface ProxyFile {
  path: string;
  /** the file's name without .conf: for logs and metrics */
  name: string;
  config: Config;
  sections: ProxySections;
  /** names of peers by public key, from "# friendly_name = ..." in their sections */
  friendlyNames: ReadonlyMap<string, string>;
  /** all files that were read, and what they said */
  texts: ReadonlyMap<string, string>;
}

export interface FileAccess {
  read(path: string): string;
  variable(name: string): string | undefined;
}

/** @throws WasmguardError ERR_CONFIG that names file and line, or that of the system */
export function loadFile(path: string, access: FileAccess): ProxyFile {
  const texts = new Map<string, string>();
  const read = (file: string): string => {
    try {
      const text = access.read(file);
      texts.set(file, text);
      return text;
    } catch (error) {
      const { code = "EIO" } = error as NodeJS.ErrnoException;
      const words: Record<string, string> = {
        ENOENT: "there is no such file",
        EACCES: "it is not permitted",
        EISDIR: "it is a folder",
      };
      throw new WasmguardError(code, `Cannot read ${file}: ${words[code] ?? code}`, { cause: error });
    }
  };
  const text = read(path);
  const own = collectSections(access.variable);
  let config = inFile(path, () => parseConfig(text, own.hooks));
  const sections = inFile(path, own.finish);
  let wgText = text;
  if (sections.wgConfig !== undefined) {
    const { path: wgPath, line } = sections.wgConfig;
    if (config.interface.privateKey !== undefined || config.peers.length > 0) {
      throw fileError(path, new ConfigError(line, "WGConfig: this file has an [Interface] or [Peer] of its own"));
    }
    const wgFile = basename(wgPath) === wgPath ? join(dirname(path), wgPath) : wgPath;
    wgText = read(wgFile);
    const imported = collectSections(access.variable);
    config = inFile(wgFile, () => parseConfig(wgText, { ...imported.hooks, section: undefined }));
    sections.checkAlive = inFile(wgFile, imported.finish).checkAlive;
  }
  allowAll(config);
  if (config.interface.privateKey === undefined) throw fileError(path, new Error("[Interface] has no PrivateKey"));
  if (config.interface.addresses.length === 0) throw fileError(path, new Error("[Interface] has no Address"));
  if (config.peers.length === 0) throw fileError(path, new Error("it has no [Peer]"));
  return { path, name: tunnelName(path), config, sections, friendlyNames: friendlyNames(wgText), texts };
}

/** The system's files. @param variable  reads the environment */
export function systemAccess(variable: FileAccess["variable"]): FileAccess {
  return { read: (path) => readFileSync(path, "utf8"), variable };
}

/** Whether a running tunnel can go over from the one to the other: else it has to be opened again. */
export function sameInterface({ interface: a }: Config, { interface: b }: Config): boolean {
  return a.mtu === b.mtu && a.addresses.map(formatPrefix).join() === b.addresses.map(formatPrefix).join();
}

/** wireproxy's rule for the one peer of a file: without AllowedIPs everything goes there. */
function allowAll({ peers }: Config): void {
  if (peers.length !== 1 || peers[0].allowedIps.length > 0) return;
  peers[0].allowedIps = [parsePrefix("0.0.0.0/0"), parsePrefix("::/0")];
}

function tunnelName(path: string): string {
  return basename(path).replace(/\.conf$/i, "") || path;
}

/** Comments that prometheus_wireguard_exporter reads. */
function friendlyNames(text: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const section of text.split(/^\s*\[peer\]/gim).slice(1)) {
    const body = section.split(/^\s*\[/m)[0];
    const name = /^\s*#\s*friendly_name\s*=\s*(\S.*?)\s*$/im.exec(body)?.[1];
    const key = /^\s*publickey\s*=\s*([A-Za-z0-9+/]{43}=)/im.exec(body)?.[1];
    if (name !== undefined && key !== undefined) names.set(key, name.slice(0, 128));
  }
  return names;
}

function inFile<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw error instanceof ConfigError ? fileError(path, error) : error;
  }
}

function fileError(path: string, error: Error): WasmguardError {
  return new WasmguardError("ERR_CONFIG", `${path}: ${error.message}`, { cause: error });
}
