// The proxy: tunnels of several files, their services, the health door, and how all of it goes over to changed files.
//
//   Proxy ─ Home (a file) ─┬─ ProxyTunnel          <- reconfigured, or replaced, under services that stay
//                          ├─ Socks5, HttpProxy, Forward, ...: a Service each
//                          └─ AliveCheck
//
// A reload is whole or not at all: everything is read and checked, and new listeners stand, before anything old is
// touched. Services are compared by their specs; one that is in both the old and the new state is not touched.

import process from "node:process";
import { WasmguardError } from "../errors.ts";
import type { Logger } from "../log.ts";
import { type MetricFamily, counter, deviceFamilies, gauge } from "../metrics.ts";
import type { Bind } from "./address.ts";
import type { Health } from "./check-alive.ts";
import { HealthDoor } from "./door.ts";
import { type FileAccess, type ProxyFile, loadFile, sameInterface } from "./file.ts";
import { Home, type RunningService } from "./home.ts";
import { type ServiceSpec, describe, identity, place } from "./spec.ts";
import type { StandardStreams } from "./stdio.ts";
import type { OpenTunnel } from "./types.ts";

/** A file, and what the command line adds to its sections. */
export interface ProxySource {
  path: string;
  services: ServiceSpec[];
}

export interface ProxyOptions {
  sources: ProxySource[];
  openTunnel: OpenTunnel;
  access: FileAccess;
  log: Logger;
  /** where the health door listens */
  metrics?: Bind;
  /** connections, or UDP sessions, of one service at a time */
  maxClients: number;
  /** milliseconds for a client's handshake; default 30 s */
  handshakeMs?: number;
  /** of a [STDIOTunnel]; default: the process's own */
  streams?: () => StandardStreams;
}

/** What the files ask for, checked. */
interface Plan {
  file: ProxyFile;
  services: ServiceSpec[];
}

export const MAX_CLIENTS = 1024;

export class Proxy {
  readonly #options: ProxyOptions;
  readonly #homes: Home[] = [];
  #door: HealthDoor | undefined;
  /** one change at a time */
  #work: Promise<unknown> = Promise.resolve();
  #stopped = false;
  #finishStdio!: (error: Error | undefined) => void;
  /** Resolves when a [STDIOTunnel] is over, with its error if it had one. */
  readonly stdioEnded = new Promise<Error | undefined>((resolve) => (this.#finishStdio = resolve));

  private constructor(options: ProxyOptions) {
    this.#options = options;
  }

  /** Reads and checks the files alone. @throws WasmguardError that names what is wrong and where */
  static check({ sources, access }: Pick<ProxyOptions, "sources" | "access">): void {
    plan(sources, access);
  }

  /** Rejects with an error that names what failed; nothing is left open then. */
  static async start(options: ProxyOptions): Promise<Proxy> {
    const proxy = new Proxy(options);
    const plans = plan(options.sources, options.access);
    try {
      for (const { file } of plans) proxy.#homes.push(await Home.open(file, proxy.#homeSettings()));
      for (const [i, { services }] of plans.entries()) {
        for (const spec of services) await proxy.#homes[i].start(spec);
      }
      const sources = { health: () => proxy.health(), metrics: () => proxy.metrics() };
      if (options.metrics) proxy.#door = await HealthDoor.start(options.metrics, sources);
    } catch (error) {
      await proxy.stop();
      throw error;
    }
    return proxy;
  }

  /** All that listens, for people and tests: [tunnel, kind, address]. */
  get addresses(): { tunnel: string; kind: string; address: string }[] {
    const services = this.#homes.flatMap(({ file, services }) =>
      services.map(({ spec, service }) => ({ tunnel: file.name, kind: spec.kind, address: service.address })),
    );
    return this.#door ? [...services, { tunnel: "", kind: "metrics", address: this.#door.address }] : services;
  }

  /** The files that were read, to be watched. */
  get files(): string[] {
    return this.#homes.flatMap(({ file }) => [...file.texts.keys()]);
  }

  health(): Record<string, Health> {
    return Object.fromEntries(this.#homes.map((home) => [home.file.name, home.health()]));
  }

  metrics(): MetricFamily[] {
    const running = this.#homes.flatMap((home) => home.services.map((each) => ({ home, ...each })));
    const label = ({ home, spec, service }: { home: Home } & RunningService) => ({
      tunnel: home.file.name,
      service: spec.kind,
      address: service.address,
    });
    const byReason = (of: "failures" | "drops") =>
      running.flatMap((each) =>
        [...each.tally[of]].map(([reason, value]) => ({ labels: { ...label(each), reason }, value })),
      );
    const of = (read: (tally: RunningService["tally"]) => number) =>
      running.map((each) => ({ labels: label(each), value: read(each.tally) }));
    return [
      ...deviceFamilies(
        this.#homes.map(({ file, tunnel }) => ({
          name: file.name,
          state: tunnel.state(),
          friendlyNames: file.friendlyNames,
          drops: tunnel.drops(),
        })),
      ),
      gauge(
        "wasmguard_tunnel_ready",
        "1 = the tunnel lives, as /readyz tells",
        this.#homes.map((home) => ({ labels: { interface: home.file.name }, value: home.health().ready ? 1 : 0 })),
      ),
      gauge(
        "wasmguard_proxy_open_connections",
        "Connections or UDP sessions now",
        of((tally) => tally.open),
      ),
      counter(
        "wasmguard_proxy_connections",
        "Connections or UDP sessions so far",
        of((tally) => tally.accepted),
      ),
      counter(
        "wasmguard_proxy_sent_bytes",
        "Payload bytes of clients",
        of((tally) => tally.sentBytes),
      ),
      counter(
        "wasmguard_proxy_received_bytes",
        "Payload bytes to clients",
        of((tally) => tally.receivedBytes),
      ),
      counter("wasmguard_proxy_failures", "Connections that failed, by reason", byReason("failures")),
      counter("wasmguard_proxy_dropped_datagrams", "UDP datagrams not passed on, by reason", byReason("drops")),
    ];
  }

  /** Goes over to what the files say now. @returns false when nothing changed. Rejects, with the old state going on. */
  reload(): Promise<boolean> {
    const work = this.#work.then(() => (this.#stopped ? false : this.#reload()));
    this.#work = work.catch(() => {});
    return work;
  }

  /** Ends listeners, connections and tunnels. Never rejects. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#work;
    await this.#door?.stop();
    const ends = await Promise.allSettled(this.#homes.splice(0).map((home) => home.close()));
    for (const end of ends) if (end.status === "rejected") this.#options.log.error(`At the end: ${end.reason}`);
  }

  async #reload(): Promise<boolean> {
    const plans = plan(this.#options.sources, this.#options.access);
    const changes = this.#homes.map((home, i) => ({ home, ...plans[i], ...compare(home, plans[i]) }));
    const isChanged = changes.some(
      ({ home, file, added, removed }) => added.length > 0 || removed.length > 0 || !sameTexts(home.file, file),
    );
    if (!isChanged) return false;
    // What is still held by a service that goes, or lies in a tunnel that may change, comes last.
    const held = new Set(changes.flatMap(({ removed }) => removed.filter((spec) => !isAnyPort(spec)).map(place)));
    const isEarly = (spec: ServiceSpec) => !held.has(place(spec)) && !("inner" in spec);
    const undo: (() => Promise<void>)[] = [];
    try {
      for (const { home, added } of changes) {
        for (const spec of added.filter(isEarly)) {
          await home.start(spec);
          undo.push(() => home.stop(spec));
        }
      }
      // A tunnel that is replaced cannot come back as it was: those that keep theirs first.
      const order = [...changes].sort((a, b) => Number(replaces(a)) - Number(replaces(b)));
      for (const { home, file } of order) {
        if (sameTexts(home.file, file)) continue;
        const before = home.file;
        await home.change(file);
        undo.push(() => home.change(before));
      }
    } catch (error) {
      for (const step of undo.reverse())
        await step().catch((reason) => this.#options.log.error(`Going back: ${reason}`));
      throw error;
    }
    for (const { home, removed } of changes) for (const spec of removed) await home.stop(spec);
    for (const { home, added, removed } of changes) {
      for (const spec of added.filter((each) => !isEarly(each))) {
        await home.start(spec).catch((error: Error) => this.#takeBack(home, spec, removed, error));
      }
    }
    return true;
  }

  /** A service could not take the place of the one before: the old one gets it again, if it was of this file. */
  async #takeBack(home: Home, spec: ServiceSpec, removed: ServiceSpec[], reason: Error): Promise<void> {
    const { log } = this.#options;
    log.error(`${home.file.path}: ${reason.message}`);
    const before = removed.find((each) => place(each) === place(spec));
    if (before === undefined) return;
    log.error(`${home.file.path}: ${describe(before)} goes on as it was`);
    await home.start(before).catch((error: Error) => log.error(`${home.file.path}: ${error.message}`));
  }

  #homeSettings() {
    const { openTunnel, log, maxClients, handshakeMs, streams = processStreams } = this.#options;
    return { openTunnel, log, maxClients, handshakeMs, streams, onStdioEnded: this.#finishStdio };
  }
}

function processStreams(): StandardStreams {
  return { input: process.stdin, output: process.stdout };
}

/** @throws WasmguardError */
function plan(sources: readonly ProxySource[], access: FileAccess): Plan[] {
  const plans = sources.map(({ path, services }) => {
    const file = loadFile(path, access);
    const all = [...file.sections.services, ...services.map((spec) => ({ spec, line: 0 }))];
    if (all.length === 0) throw refuse(path, 0, "no service: give an option such as --socks5 1080, or a section");
    return { file, all };
  });
  const places = new Map<string, string>();
  for (const [i, { file, all }] of plans.entries()) {
    for (const { spec, line } of all) {
      // Each tunnel has ports of its own.
      const at = "inner" in spec ? `${i} ${place(spec)}` : place(spec);
      const before = places.get(at);
      if (before !== undefined) throw refuse(file.path, line, `${describe(spec)}: ${before} has that place already`);
      if (!isAnyPort(spec)) places.set(at, describe(spec));
    }
  }
  const names = plans.map(({ file }) => file.name);
  for (const [i, { file }] of plans.entries()) {
    if (names.indexOf(file.name) !== i) throw refuse(file.path, 0, `another file is called ${file.name} too`);
  }
  return plans.map(({ file, all }) => ({ file, services: all.map(({ spec }) => spec) }));
}

function refuse(path: string, line: number, problem: string): WasmguardError {
  return new WasmguardError("ERR_CONFIG", `${path}: ${line > 0 ? `line ${line}: ` : ""}${problem}`);
}

/** The system chooses: no other service can be in the way. */
function isAnyPort(spec: ServiceSpec): boolean {
  return "bind" in spec && "port" in spec.bind && spec.bind.port === 0;
}

function compare(home: Home, { services }: Plan): { added: ServiceSpec[]; removed: ServiceSpec[] } {
  const wanted = new Set(services.map(identity));
  const removed = home.services.map(({ spec }) => spec).filter((spec) => !wanted.has(identity(spec)));
  return { added: services.filter((spec) => !home.has(spec)), removed };
}

function sameTexts(a: ProxyFile, b: ProxyFile): boolean {
  return a.texts.size === b.texts.size && [...a.texts].every(([path, text]) => b.texts.get(path) === text);
}

function replaces({ home, file }: { home: Home; file: ProxyFile }): boolean {
  return !sameInterface(home.file.config, file.config);
}
