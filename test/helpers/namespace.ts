// Network namespaces for tests that need interfaces of their own: made with unique names, removed when the process ends.
// A test enters one with its own thread (setns) only while it opens a descriptor: sockets and TUNs stay in the namespace
// they were opened in, so everything can run in one process, where a failure has a stack.

import { execFileSync } from "node:child_process";
import os from "node:os";
import process from "node:process";
import { suite } from "uvu";
import { O_CLOEXEC, type Libc } from "../../host/platform/linux/libc.ts";

const CLONE_NEWNET = 0x40000000;

const namespaces = new Set<Namespace>();
let made = 0;

function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

function removeAll(): void {
  for (const namespace of namespaces) namespace.remove();
}

export class Namespace {
  readonly name = `wglinux-${process.pid}-${made++}`;

  constructor() {
    if (made === 1) {
      process.on("exit", removeAll);
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
    }
    run("ip", "netns", "add", this.name);
    namespaces.add(this);
    this.ip("link", "set", "lo", "up");
  }

  /** Runs `ip ARGS` inside; throws with its message. */
  ip(...args: string[]): string {
    return run("ip", "-n", this.name, ...args);
  }

  /** Runs a program inside. */
  exec(command: string, ...args: string[]): string {
    return run("ip", "netns", "exec", this.name, command, ...args);
  }

  /** Runs `open`, which must not await, with this thread inside. */
  enter<T>(libc: Libc, open: () => T): T {
    const home = libc.check(libc.open("/proc/thread-self/ns/net", O_CLOEXEC), "open", "open this thread's namespace");
    const there = libc.check(libc.open(`/run/netns/${this.name}`, O_CLOEXEC), "open", `open namespace ${this.name}`);
    try {
      libc.check(libc.setns(there, CLONE_NEWNET), "setns", `enter namespace ${this.name}`);
      try {
        return open();
      } finally {
        libc.check(libc.setns(home, CLONE_NEWNET), "setns", "leave the namespace");
      }
    } finally {
      libc.close(there);
      libc.close(home);
    }
  }

  remove(): void {
    if (!namespaces.delete(this)) return;
    try {
      run("ip", "netns", "del", this.name);
    } catch (error) {
      process.stderr.write(`cannot remove namespace ${this.name}: ${error instanceof Error ? error.message : error}\n`);
    }
  }
}

/** Joins two namespaces by a veth pair; each end has the name it is given. The links are up, without addresses. */
export function joinByVeth(a: Namespace, nameA: string, b: Namespace, nameB: string): void {
  a.ip("link", "add", nameA, "type", "veth", "peer", "name", nameB, "netns", b.name);
  for (const [namespace, name] of [[a, nameA], [b, nameB]] as const) {
    namespace.ip("link", "set", name, "addrgenmode", "none"); // no address that nobody asked for
    namespace.ip("link", "set", name, "up");
  }
}

/** Why tests in namespaces cannot run here, or null when they can. */
export function whyNoNamespaces(): string | null {
  if (os.platform() !== "linux") return `network namespaces are Linux's, and this is ${os.platform()}`;
  if (process.getuid?.() !== 0) return "it needs root";
  const probe = `wglinux-${process.pid}-probe`;
  try {
    run("ip", "netns", "add", probe);
    run("ip", "netns", "del", probe);
    return null;
  } catch (error) {
    return `no network namespaces: ${error instanceof Error ? error.message.trim().split("\n").at(-1) : error}`;
  }
}

/**
 * Says that a suite cannot run, and why; with WASMGUARD_NO_SKIP=1 it fails instead.
 */
export function cannotRun(name: string, reason: string): void {
  process.stderr.write(`cannot run: ${name}: ${reason}\n`);
  if (process.env.WASMGUARD_NO_SKIP !== "1") return;
  const failing = suite(name);
  failing("can run", () => {
    throw new Error(`cannot run: ${name}: ${reason}`);
  });
  failing.run();
}
