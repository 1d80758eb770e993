// Which configuration file: wg-quick's rules for names and places. The file's name is the interface's.

import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { type Config, ConfigError, parseConfig } from "../config.ts";
import { quote, WasmguardError } from "../errors.ts";

export const CONFIG_DIRECTORY = "/etc/wireguard";

const INTERFACE_NAME = /^[a-zA-Z0-9_=+.-]{1,15}$/;
const CONFIG_FILE = /(?:^|\/)([a-zA-Z0-9_=+.-]{1,15})\.conf$/;
/** read, write and search for everybody */
const OTHERS = 0o007;

export interface ConfigFile {
  /** with no symbolic link in it: what SaveConfig replaces */
  path: string;
  /** of the interface */
  name: string;
  config: Config;
}

/**
 * Finds and reads "NAME" or "PATH/NAME.conf".
 * @param warn  told when others on this machine can read it
 * @throws WasmguardError ENOENT, ERR_CONFIG; the system's
 */
export function readConfigFile(
  argument: string,
  warn: (line: string) => void,
  directory = CONFIG_DIRECTORY,
): ConfigFile {
  const given = INTERFACE_NAME.test(argument) ? `${directory}/${argument}.conf` : argument;
  if (!existsSync(given)) throw new WasmguardError("ENOENT", `${given} does not exist`);
  const name = CONFIG_FILE.exec(given)?.[1];
  if (name === undefined || name === "." || name === "..") {
    throw new WasmguardError(
      "EINVAL",
      `${given}: the file must be named after its interface, 1 to 15 of a-z A-Z 0-9 _ = + . -, and .conf`,
    );
  }
  const path = realpathSync(given);
  if (statSync(path).mode & statSync(dirname(path)).mode & OTHERS) warn(`Warning: ${path} is world accessible`);
  try {
    return { path, name, config: parseConfig(readFileSync(path, "utf8")) };
  } catch (error) {
    if (error instanceof ConfigError) {
      throw new WasmguardError(error.code, `${path}, ${error.message}`, { cause: error });
    }
    throw error;
  }
}

/** @throws WasmguardError ENOENT unless `ip netns` knows that namespace */
export function checkNamespace(namespace: string): void {
  if (
    !/^[^/\s]{1,255}$/.test(namespace) || namespace === "." || namespace === ".." ||
    !existsSync(`/run/netns/${namespace}`)
  ) {
    throw new WasmguardError("ENOENT", `There is no network namespace ${quote(namespace)} (ip netns add ...)`);
  }
}
