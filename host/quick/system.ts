// What up and down ask of the machine: programs, run and asked, and a few files. Everything they change goes through
// here and is said first, as `[#] command`, so that a user sees what happened and can undo it by hand. An interface,
// because the tests hand in a machine of their own and compare what is done to it with what wg-quick does.

import { spawn } from "node:child_process";
import { accessSync, constants, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";
import { WasmguardError } from "../errors.ts";

export interface System {
  /**
   * Says the command and runs it; what it prints goes to our standard error.
   * @param input  its standard input, never said
   * @throws WasmguardError ERR_COMMAND when it does not end with 0
   */
  run(command: string[], input?: string): Promise<void>;
  /** A command line of the configuration, for bash where there is one. @throws WasmguardError ERR_COMMAND */
  shell(line: string, namespace: string | undefined): Promise<void>;
  /** What a command prints, unsaid; "" when it fails or is not there. */
  query(command: string[]): Promise<string>;
  /** Whether there is a program of that name. */
  has(program: string): boolean;
  /** Says a setting of the kernel and writes it. */
  set(path: string, value: string): void;
  /** The text of a file; "" when it cannot be read. */
  read(path: string): string;
  /** One line for the user. */
  say(line: string): void;
}

/** Where system programs are, though a user's PATH may not say so. */
const MORE_PLACES = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

export class LinuxSystem implements System {
  readonly #signal: AbortSignal | undefined;
  readonly #env: Record<string, string | undefined>;

  /** @param signal  once aborted, nothing more is run: each call throws its reason */
  constructor(signal?: AbortSignal) {
    this.#signal = signal;
    this.#env = { ...process.env, PATH: [process.env.PATH, ...MORE_PLACES].filter(Boolean).join(delimiter) };
    delete this.#env.WASMGUARD_BACKGROUND;
  }

  async run(command: string[], input?: string): Promise<void> {
    this.#signal?.throwIfAborted();
    this.say(`[#] ${command.join(" ")}`);
    await this.#end(command, command.join(" "), input);
  }

  async shell(line: string, namespace: string | undefined): Promise<void> {
    this.#signal?.throwIfAborted();
    this.say(`[#] ${line}`);
    const inside = namespace === undefined ? [] : ["ip", "netns", "exec", namespace];
    await this.#end([...inside, this.has("bash") ? "bash" : "sh", "-c", line], line);
  }

  query(command: string[]): Promise<string> {
    this.#signal?.throwIfAborted();
    return new Promise((resolve) => {
      let text = "";
      const child = this.#spawn(command, ["ignore", "pipe", "ignore"]);
      child.stdout!.setEncoding("utf8");
      child.stdout!.on("data", (chunk: string) => (text += chunk));
      child.on("error", () => resolve(""));
      child.on("close", (code) => resolve(code === 0 ? text : ""));
    });
  }

  has(program: string): boolean {
    return (this.#env.PATH ?? "").split(delimiter).some((folder) => {
      try {
        accessSync(join(folder, program), constants.X_OK);
        return folder !== "";
      } catch {
        return false;
      }
    });
  }

  set(path: string, value: string): void {
    this.#signal?.throwIfAborted();
    this.say(`[#] echo ${value} > ${path}`);
    writeFileSync(path, value);
  }

  read(path: string): string {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return "";
    }
  }

  say(line: string): void {
    process.stderr.write(`${line}\n`);
  }

  #end(command: string[], what: string, input?: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const refuse = (reason: string): void => reject(new WasmguardError("ERR_COMMAND", `"${what}" ${reason}`));
      // Standard output says when the daemon in the background is ready, and nothing else.
      const child = this.#spawn(command, [input === undefined ? "ignore" : "pipe", 2, 2]);
      const kill = (): void => void child.kill();
      this.#signal?.addEventListener("abort", kill);
      child.on("error", (error: NodeJS.ErrnoException) => refuse(`cannot run: ${error.code ?? error.message}`));
      // Not "close": what a hook leaves running may hold the descriptors for ever.
      child.on("exit", (code, signal) => {
        this.#signal?.removeEventListener("abort", kill);
        if (code === 0) resolve();
        else if (this.#signal?.aborted) reject(this.#signal.reason);
        else refuse(`ended with ${signal ?? code}`);
      });
      child.stdin?.on("error", () => {}); // it ended without reading all: its exit status tells
      child.stdin?.end(input);
    });
  }

  #spawn([program, ...args]: string[], stdio: ("ignore" | "pipe" | number)[]) {
    return spawn(program, args, { stdio, env: { ...this.#env, LC_ALL: "C" } });
  }
}
