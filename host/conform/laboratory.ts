// Two network namespaces joined by a veth pair: in one the peer under test, started by any command line that makes a
// TUN interface and a UAPI socket, in the other a process of ours that makes the checks. Made here, in the parent, and
// removed here, whatever becomes of the two.
//
//    namespace NAME-us                        namespace NAME-peer
//   ┌─────────────────────┐      veth       ┌──────────────────────────────────┐
//   │ the checks           10.97.0.2/24 ──── 10.97.0.1/24   IFACE 10.98.0.1/16 │
//   │                      10.97.0.4         10.97.0.3            fd98::1/64   │
//   └─────────────────────┘                 └──────────────────────────────────┘

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { WasmguardError } from "../errors.ts";
import { socketPath } from "../uapi-server.ts";
import { sleep } from "./check.ts";
import { INNER_NETWORKS, type LaboratoryPlan } from "./stands.ts";

const START_MS = 20_000;
const STOP_MS = 5000;
const MTU = 1420;
const OURS: [string, string] = ["10.97.0.2", "10.97.0.4"];
const THEIRS: [string, string] = ["10.97.0.1", "10.97.0.3"];

/** The environment variable that holds the plan for the process in our namespace. */
export const PLAN = "WASMGUARD_CONFORM_PLAN";

/** @throws WasmguardError with what `ip` said */
function ip(line: string): string {
  try {
    return execFileSync("ip", line.split(" "), { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { code, stderr } = error as { code?: string; stderr?: string };
    if (code === "ENOENT")
      throw new WasmguardError("ENOENT", "Cannot make namespaces: there is no ip command (iproute2)");
    throw new WasmguardError("EPERM", `Cannot make namespaces: ip ${line}: ${stderr?.trim() ?? code}`);
  }
}

export class Laboratory {
  readonly #id = `wgconform-${process.pid}`;
  readonly #us = `${this.#id}-us`;
  readonly #peer = `${this.#id}-peer`;
  readonly #interface = `wgc${process.pid.toString(36)}`;
  readonly #folder = mkdtempSync(join(tmpdir(), "wgconform-"));
  readonly #log = join(this.#folder, "log");
  #daemon: ChildProcess | undefined;
  #made: string[] = [];

  /** @throws WasmguardError when it is not there in time, with its last words; call close() all the same */
  async start(command: string): Promise<LaboratoryPlan> {
    for (const name of [this.#us, this.#peer]) {
      ip(`netns add ${name}`);
      this.#made.push(name);
      ip(`-n ${name} link set lo up`);
    }
    ip(`link add veth0 netns ${this.#us} type veth peer name veth0 netns ${this.#peer}`);
    for (const [name, addresses] of [
      [this.#us, OURS],
      [this.#peer, THEIRS],
    ] as const) {
      for (const address of addresses) ip(`-n ${name} addr add ${address}/24 dev veth0`);
      ip(`-n ${name} link set veth0 up`);
    }
    await this.#startDaemon(command.replaceAll("{iface}", this.#interface));
    for (const network of Object.values(INNER_NETWORKS)) {
      ip(`-n ${this.#peer} addr add ${network} dev ${this.#interface}${network.includes(":") ? " nodad" : ""}`);
    }
    ip(`-n ${this.#peer} link set ${this.#interface} mtu ${MTU} up`);
    const socket = socketPath(this.#interface);
    return { interface: this.#interface, namespace: this.#peer, socket, ours: OURS, theirs: THEIRS, mtu: MTU };
  }

  /** Runs a command in our namespace with our terminal. @returns its exit code */
  run(command: string[], plan: LaboratoryPlan): Promise<number> {
    const env = { ...process.env, [PLAN]: JSON.stringify(plan) };
    const child = spawn("ip", ["netns", "exec", this.#us, ...command], { stdio: "inherit", env });
    return new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code) => resolve(code ?? 1));
    });
  }

  /** What the daemon has printed last. */
  lastWords(): string {
    return readFileSync(this.#log, "utf8").trim().split("\n").slice(-8).join("\n");
  }

  async close(): Promise<void> {
    const daemon = this.#daemon;
    if (daemon && daemon.exitCode === null && daemon.signalCode === null) {
      const ended = new Promise((resolve) => daemon.once("close", resolve));
      daemon.kill("SIGTERM");
      await Promise.race([ended, sleep(STOP_MS)]);
    }
    this.closeNow();
  }

  /** The same without waiting. */
  closeNow(): void {
    for (const name of this.#made.splice(0)) {
      // What runs in a namespace of ours is ours, a daemon that went to the background too.
      for (const pid of ip(`netns pids ${name}`).split("\n").filter(Boolean)) process.kill(Number(pid), "SIGKILL");
      ip(`netns del ${name}`);
    }
    rmSync(socketPath(this.#interface), { force: true });
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #startDaemon(command: string): Promise<void> {
    const log = openSync(this.#log, "a");
    const daemon = spawn("ip", ["netns", "exec", this.#peer, "sh", "-c", command], { stdio: ["ignore", log, log] });
    closeSync(log);
    this.#daemon = daemon;
    let failed = false;
    // A command that returns 0 has gone to the background.
    daemon.once("exit", (code) => (failed = code !== 0));
    daemon.once("error", () => (failed = true));
    const end = Date.now() + START_MS;
    while (!(await answers(socketPath(this.#interface)))) {
      const late = Date.now() > end;
      if (!failed && !late) {
        await sleep(50);
        continue;
      }
      const why = failed ? "it ended" : `no answer on ${socketPath(this.#interface)} after ${START_MS / 1000} s`;
      throw new WasmguardError("ERR_PEER", `Cannot start ${command}: ${why}\n${this.lastWords()}`);
    }
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}
