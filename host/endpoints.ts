// Endpoints by name, kept up to date: asks the resolver, tells the rules (endpoint-choice.ts) what it found and what
// the core reports, sets the endpoints that they choose. One timer for all names, and none when every endpoint is an
// address.
//
// Addresses come from getaddrinfo, as with wg: /etc/hosts, mDNS and whatever else the machine has, best first. Their
// time to live comes from the DNS beside it, when that knows the same name; else they hold for INTERVAL_MS. A resolver
// of our own for everything was rejected: it would not find what every other program on the machine finds.

import { promises as dns } from "node:dns";
import {
  EVENT_HANDSHAKE_COMPLETE,
  EVENT_HANDSHAKE_GIVEN_UP,
  EVENT_INITIATION_SENT,
  EVENT_PEER_SILENT,
  EVENT_ROAMED,
  EVENT_SESSION_CONFIRMED,
} from "../assembly/abi.ts";
import { type Config, unresolvedHosts } from "./config.ts";
import { type Decision, EndpointChoice, NameSchedule } from "./endpoint-choice.ts";
import { type Endpoint, formatEndpoint, type HostPort, isAddress } from "./endpoint.ts";
import { WasmguardError } from "./errors.ts";
import { type IpAddress, tryParseIp } from "./ip.ts";
import { encodeBase64Key } from "./keys.ts";
import { type Logger, silentLogger } from "./log.ts";

/** What a name stands for. */
export interface Resolution {
  /** at least one, the best first */
  addresses: IpAddress[];
  /** undefined = not known */
  ttlMs?: number;
}

/** Asks for the addresses of a name. Rejects with a `code`: ENOTFOUND for good, EAI_AGAIN and others for now. */
export type NameResolver = (name: string) => Promise<Resolution>;

/** Time and one timer, in ms. */
export interface KeeperClock {
  now(): number;
  /** @returns what takes it back */
  after(ms: number, run: () => void): () => void;
}

/** A peer whose endpoint has a name. */
export interface NamedPeer extends HostPort {
  publicKey: Uint8Array;
}

export interface EndpointKeeperOptions {
  peers: readonly NamedPeer[];
  /** A rejection is logged, and the next event tries again. */
  setEndpoint: (publicKey: Uint8Array, endpoint: Endpoint) => void | Promise<void>;
  /** what is known already, by name, and applied: the first address of each */
  resolved?: ReadonlyMap<string, Resolution>;
  /** default: the system's */
  resolver?: NameResolver;
  clock?: KeeperClock;
  log?: Logger;
}

interface KeptPeer extends NamedPeer {
  choice: EndpointChoice;
}

interface KeptName {
  host: string;
  schedule: NameSchedule;
  peers: KeptPeer[];
}

/** Longest delay of setTimeout, ms. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;

export class EndpointKeeper {
  readonly #options: EndpointKeeperOptions;
  readonly #resolver: NameResolver;
  readonly #clock: KeeperClock;
  readonly #log: Logger;
  readonly #names = new Map<string, KeptName>();
  readonly #peers = new Map<string, { peer: KeptPeer; name: KeptName }>();
  #cancel = (): void => {};
  #closed = false;

  constructor(options: EndpointKeeperOptions) {
    this.#options = options;
    this.#resolver = options.resolver ?? systemResolver;
    this.#clock = options.clock ?? systemClock;
    this.#log = options.log ?? silentLogger;
    const now = this.#clock.now();
    for (const { publicKey, host, port } of options.peers) {
      if (isAddress(host)) continue;
      const name = this.#names.get(host) ?? { host, schedule: new NameSchedule(now), peers: [] };
      const peer = { publicKey, host, port, choice: new EndpointChoice() };
      name.peers.push(peer);
      this.#names.set(host, name);
      this.#peers.set(encodeBase64Key(publicKey), { peer, name });
    }
  }

  /** Begins: asks for the names that are not known yet. Resolves none itself, so it never waits. */
  start(): void {
    const now = this.#clock.now();
    for (const { host, schedule, peers } of this.#names.values()) {
      const resolution = this.#options.resolved?.get(host);
      if (resolution === undefined) continue;
      schedule.asked(now);
      schedule.answered(now, resolution.ttlMs);
      // Its first address is in place by now, so that there is nothing to apply.
      for (const { choice } of peers) choice.resolved(resolution.addresses, now);
    }
    this.#step();
  }

  /** Call for every event of the core that has a peer. @param type  EVENT_* of abi.ts */
  event(publicKey: Uint8Array, type: number): void {
    if (this.#peers.size === 0 || this.#closed) return;
    const kept = this.#peers.get(encodeBase64Key(publicKey));
    if (kept === undefined) return;
    const { peer, name } = kept;
    const now = this.#clock.now();
    if (type === EVENT_INITIATION_SENT) this.#decide(peer, name, peer.choice.initiationSent(now));
    else if (type === EVENT_HANDSHAKE_COMPLETE || type === EVENT_SESSION_CONFIRMED) peer.choice.answered(now);
    else if (type === EVENT_ROAMED) peer.choice.roamed(now);
    else if (type === EVENT_HANDSHAKE_GIVEN_UP || type === EVENT_PEER_SILENT) {
      this.#decide(peer, name, peer.choice.failed());
    } else return;
    this.#step();
  }

  /** No timer and no endpoint set after this. */
  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  /** Does what is due, and arms the timer for what comes next. */
  #step(): void {
    if (this.#closed) return;
    this.#cancel();
    this.#cancel = () => {};
    const now = this.#clock.now();
    let next = Infinity;
    for (const name of this.#names.values()) {
      for (const peer of name.peers) {
        this.#decide(peer, name, peer.choice.tick(now));
        next = Math.min(next, peer.choice.deadline);
      }
      if (name.schedule.deadline <= now) void this.#ask(name, now);
      next = Math.min(next, name.schedule.deadline);
    }
    if (next !== Infinity) this.#cancel = this.#clock.after(Math.min(next - now, TIMEOUT_MAX_MS), () => this.#step());
  }

  async #ask(name: KeptName, now: number): Promise<void> {
    const { host, schedule, peers } = name;
    schedule.asked(now);
    try {
      const { addresses, ttlMs } = await this.#resolver(host);
      const then = this.#clock.now();
      schedule.answered(then, ttlMs);
      for (const peer of peers) this.#decide(peer, name, peer.choice.resolved(addresses, then));
    } catch (error) {
      schedule.failed(this.#clock.now());
      this.#log.verbose(`Cannot resolve ${host}: ${describe(error)}`);
    }
    this.#step();
  }

  #decide(peer: KeptPeer, { schedule }: KeptName, { use, resolve }: Decision): void {
    if (this.#closed) return;
    if (resolve) schedule.hurry(this.#clock.now());
    if (use === null) return;
    const endpoint: Endpoint = { ...use, port: peer.port, scope: 0 };
    this.#log.verbose(`Endpoint of ${peer.host}: ${formatEndpoint(endpoint)}`);
    const failed = (error: unknown): void =>
      this.#log.error(`Cannot set the endpoint ${formatEndpoint(endpoint)}: ${describe(error)}`);
    try {
      Promise.resolve(this.#options.setEndpoint(peer.publicKey, endpoint)).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}

/** The peers of a configuration whose endpoints a keeper has to look after; none when all are addresses. */
export function namedPeers({ peers }: Config): NamedPeer[] {
  return peers.flatMap(({ publicKey, endpoint }) => {
    return endpoint && !isAddress(endpoint.host) ? [{ publicKey, ...endpoint }] : [];
  });
}

export interface ResolveOptions {
  /** default: the system's */
  resolver?: NameResolver;
  clock?: KeeperClock;
  /** how often to try again; default 15, which is over a minute */
  retries?: number;
  signal?: AbortSignal;
  onRetry?: (host: string, code: string, delayMs: number) => void;
}

/** As with wg: a second at first, then longer by a fifth each time. */
const RETRY_FIRST_MS = 1000;
const RETRY_GROWTH = 1.2;
const RETRY_COUNT = 15;

/**
 * Resolves every name of a configuration, and waits for a resolver that is not there yet, as after a boot.
 * @returns what EndpointKeeper takes as `resolved`
 * @throws WasmguardError with the resolver's code (ENOTFOUND, EAI_AGAIN ...) naming the host; the signal's reason
 */
export async function resolveNames(config: Config, options: ResolveOptions = {}): Promise<Map<string, Resolution>> {
  const hosts = unresolvedHosts(config);
  const found = await Promise.all(hosts.map((host) => resolveName(host, options)));
  return new Map(hosts.map((host, i) => [host, found[i]]));
}

async function resolveName(host: string, options: ResolveOptions): Promise<Resolution> {
  const { resolver = systemResolver, clock = systemClock, retries = RETRY_COUNT, signal, onRetry } = options;
  let delayMs = RETRY_FIRST_MS;
  for (let attempt = 0; ; attempt++) {
    signal?.throwIfAborted();
    try {
      return await resolver(host);
    } catch (error) {
      const code = (error as { code?: string }).code ?? "EIO";
      if (PERMANENT.has(code) || attempt >= retries) {
        throw new WasmguardError(code, `Cannot resolve ${host}: ${describe(error)}`, { cause: error });
      }
      onRetry?.(host, code, delayMs);
      await pause(clock, delayMs, signal);
      delayMs *= RETRY_GROWTH;
    }
  }
}

/** No second question would change these. */
const PERMANENT = new Set(["ENOTFOUND", "EAI_FAIL", "EAI_NODATA", "EBADNAME", "ERR_INVALID_ARG_VALUE"]);

function pause(clock: KeeperClock, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      cancel();
      reject(signal!.reason);
    };
    const cancel = clock.after(ms, () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    });
    signal?.addEventListener("abort", stop, { once: true });
  });
}

const systemClock: KeeperClock = {
  now: () => performance.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};

/** getaddrinfo for the addresses, the DNS for their time to live. */
export const systemResolver: NameResolver = async (name) => {
  const [found, records] = await Promise.all([dns.lookup(name, { all: true, verbatim: true }), dnsRecords(name)]);
  const addresses = found.flatMap(({ address }) => tryParseIp(address) ?? []);
  if (addresses.length === 0) throw Object.assign(new Error("no address"), { code: "ENOTFOUND" });
  const known = new Set(found.map(({ address }) => address));
  const ttls = records.filter(({ address }) => known.has(address)).map(({ ttl }) => ttl * 1000);
  return { addresses, ttlMs: ttls.length > 0 ? Math.min(...ttls) : undefined };
};

/** Longest wait for the DNS beside getaddrinfo, ms: without it only the time to live is not known. */
const DNS_TIMEOUT_MS = 2000;

/** Never rejects. A resolver each time, because the machine's name servers change with its networks. */
async function dnsRecords(name: string): Promise<{ address: string; ttl: number }[]> {
  const resolver = new dns.Resolver({ timeout: DNS_TIMEOUT_MS, tries: 1 });
  const none = (): [] => [];
  const lists = await Promise.all([
    resolver.resolve4(name, { ttl: true }).catch(none),
    resolver.resolve6(name, { ttl: true }).catch(none),
  ]);
  return lists.flat();
}

/** What went wrong, for people: Node's own text has the name once more. */
function describe(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  if (code === "ENOTFOUND") return "there is no such name (ENOTFOUND)";
  if (code === "EAI_AGAIN") return "no name server answers (EAI_AGAIN)";
  return message ?? String(error);
}
