// What a subcommand is, and what all of them share: how arguments are read and refused.

import process from "node:process";
import { type ParseArgsConfig, parseArgs } from "node:util";

export interface Command {
  /** everything that `wasmguard NAME --help` says, ending in a line feed */
  help: string;
  /**
   * @param args  what follows the command's name
   * @throws UsageError for exit code 2, any other error for 1: its message is printed
   */
  run(args: string[], context: CommandContext): Promise<void>;
}

export interface CommandContext {
  /** path of the script that runs us, to start it again in the background */
  script: string;
}

/** The caller's mistake on the command line. */
export class UsageError extends Error {}

type Options = NonNullable<ParseArgsConfig["options"]>;

/** parseArgs with our error. @throws UsageError */
export function parse<const T extends Options>(args: string[], options: T) {
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    throw new UsageError((error as Error).message.replace(/\. To specify.*$/s, ""));
  }
}

/** A whole number of an option. @returns undefined when it was not given. @throws UsageError */
export function number(name: string, text: string | undefined, max: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > max) throw new UsageError(`${name} ${text} is not in 1..${max}`);
  return value;
}

/** @throws UsageError when there are more positional arguments than `most` */
export function atMost(positionals: string[], most: number): void {
  if (positionals.length > most) throw new UsageError(`unexpected argument "${positionals[most]}"`);
}

/** Wraps text in a terminal attribute (SGR number) where output is a terminal. */
export const style = (code: number) => (text: string) => (process.stdout.isTTY ? `\x1b[${code}m${text}\x1b[0m` : text);
