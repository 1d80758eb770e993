// Names to addresses through the stack: a stub resolver. RFC 1034 §5.3.1, RFC 2308 (what is not there is remembered as
// well), RFC 5452 (exchange.ts).
//
// The servers are asked in turn, from the last one that answered, in rounds of growing patience. Equal questions at one
// time are one question; it ends when nobody waits for it any more. The cache is bounded and forgets the least recently
// used. No file is read: /etc/hosts is the machine's, and the names are the tunnel's. "localhost" and what is under it
// are the stack itself, by its own addresses, and no server hears of them (RFC 6761 §6.3).

import { quote, WasmguardError } from "../errors.ts";
import { type Family, type IpAddress, tryParseIp } from "../ip.ts";
import type { DnsResult, QueryType } from "./dns.ts";
import { ask, type Means } from "./exchange.ts";
import type { Stack } from "./stack.ts";
import type { FillRandom, StackClock } from "./types.ts";

/** of the first round; each further round waits twice as long */
const TIMEOUT_MS = 2000;
const ROUNDS = 3;
/** aliases that need a question of their own */
const ALIASES_MAX = 8;
const CACHE_MAX = 1024;
/** RFC 1035 §2.3.4, as text without the last dot */
const NAME_MAX_LEN = 253;
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;

export interface ResolverOptions {
  stack: Stack;
  /** in the order of preference; one at least */
  servers: readonly IpAddress[];
  /** appended to names without a dot first, and to others when they are not found; default none */
  searchDomains?: readonly string[];
  clock: StackClock;
  random: FillRandom;
}

export interface ResolveOptions {
  /** default: the families that the stack has addresses of */
  family?: Family;
  signal?: AbortSignal;
}

/** What the servers say of one name and type. */
type Outcome =
  | { kind: "addresses"; addresses: IpAddress[] }
  | { kind: "none"; nameExists: boolean }
  /** none of them would say; `code` of the last */
  | { kind: "failure"; code: string };

interface CacheEntry {
  outcome: Outcome;
  expires: number;
}

interface Question {
  outcome: Promise<Outcome>;
  waiting: number;
  controller: AbortController;
}

export class Resolver {
  readonly #means: Means;
  readonly #stack: Stack;
  readonly #servers: readonly IpAddress[];
  readonly #searchDomains: readonly string[];
  readonly #clock: StackClock;
  /** by type and name; the least recently used first */
  readonly #cache = new Map<string, CacheEntry>();
  readonly #questions = new Map<string, Question>();
  /** index of the server that answered last */
  #preferred = 0;
  #closed = false;

  /** @throws RangeError without a server */
  constructor(options: ResolverOptions) {
    if (options.servers.length === 0) throw new RangeError("Cannot open resolver: it has no server to ask");
    this.#means = { stack: options.stack, clock: options.clock, random: options.random };
    this.#stack = options.stack;
    this.#servers = options.servers;
    this.#searchDomains = (options.searchDomains ?? []).map((domain) => toAscii(domain) ?? refuseDomain(domain));
    this.#clock = options.clock;
  }

  /** questions that wait for an answer */
  get pending(): number {
    return this.#questions.size;
  }

  /** answers that are remembered */
  get cached(): number {
    return this.#cache.size;
  }

  /**
   * The addresses of a name, IPv6 first, each family in the server's order. An address as text is itself.
   * @throws WasmguardError ENOTFOUND (there is no such name, or it has no address of the family), EAI_AGAIN (no server
   *   could say), ECANCELED (closed); the signal's reason
   */
  async resolve(name: string, options: ResolveOptions = {}): Promise<IpAddress[]> {
    const { family, signal } = options;
    signal?.throwIfAborted();
    const literal = tryParseIp(name);
    if (literal !== null) {
      if (family !== undefined && literal.family !== family) throw notFound(name, `it is not an IPv${family} address`);
      return [literal];
    }
    const ascii = toAscii(name);
    if (ascii === null) throw notFound(name, "it is not a host name");
    const families = this.#families(family);
    if (ascii === "localhost" || ascii.endsWith(".localhost")) return this.#ownAddresses(name, families);
    let failure: string | null = null;
    for (const candidate of this.#candidates(ascii, name.endsWith("."))) {
      const types = families.map((each): QueryType => (each === 6 ? "AAAA" : "A"));
      const outcomes = await Promise.all(types.map((type) => this.#question(candidate, type, signal)));
      const addresses = outcomes.flatMap((outcome) => (outcome.kind === "addresses" ? outcome.addresses : []));
      if (addresses.length > 0) return addresses;
      for (const outcome of outcomes) if (outcome.kind === "failure") failure ??= outcome.code;
    }
    if (failure !== null) {
      throw new WasmguardError("EAI_AGAIN", `Cannot resolve ${quote(name)}: no answer (${failure})`);
    }
    throw notFound(name, "it has no address");
  }

  /** Forgets everything; who waits gets ECANCELED. */
  close(): void {
    this.#closed = true;
    this.#cache.clear();
    const reason = new WasmguardError("ECANCELED", "The resolver was closed");
    for (const { controller } of [...this.#questions.values()]) controller.abort(reason);
  }

  /** IPv6 first (RFC 6724 §2.1). */
  #families(family?: Family): Family[] {
    if (family !== undefined) return [family];
    return ([6, 4] as const).filter((each) => this.#stack.addresses.some((own) => own.family === each));
  }

  #ownAddresses(name: string, families: Family[]): IpAddress[] {
    const own = families.flatMap((family) => this.#stack.addresses.filter((address) => address.family === family));
    if (own.length === 0) throw notFound(name, "the stack has no address of that family");
    return own.map(({ family, address }) => ({ family, address: address.slice() }));
  }

  /** A name with a dot is tried as it is first, one without a dot last; one that ends with a dot is whole. */
  #candidates(name: string, isWhole: boolean): string[] {
    if (isWhole) return [name];
    const longer = this.#searchDomains
      .map((domain) => `${name}.${domain}`)
      .filter((each) => each.length <= NAME_MAX_LEN);
    return name.includes(".") ? [name, ...longer] : [...longer, name];
  }

  /** From the cache, or with whoever asks the same now, or by a new question. */
  async #question(name: string, type: QueryType, signal?: AbortSignal): Promise<Outcome> {
    const key = `${type} ${name}`;
    const cached = this.#recall(key);
    if (cached !== null) return cached;
    if (this.#closed) throw new WasmguardError("ECANCELED", `Cannot resolve ${quote(name)}: the resolver was closed`);
    const question = this.#questions.get(key) ?? this.#begin(key, name, type);
    question.waiting++;
    try {
      return await orAborted(question.outcome, signal);
    } finally {
      if (--question.waiting === 0) {
        this.#forget(key, question);
        question.controller.abort(); // nothing, if it is over
      }
    }
  }

  #begin(key: string, name: string, type: QueryType): Question {
    const controller = new AbortController();
    const outcome = this.#askForName(key, name, type, controller.signal);
    const question: Question = { outcome, waiting: 0, controller };
    outcome.catch(() => {}); // those who wait have heard of it
    this.#questions.set(key, question);
    return question;
  }

  #forget(key: string, question: Question): void {
    if (this.#questions.get(key) === question) this.#questions.delete(key);
  }

  async #askForName(key: string, name: string, type: QueryType, signal: AbortSignal): Promise<Outcome> {
    let ttlS = Infinity;
    for (let aliases = 0; aliases <= ALIASES_MAX; aliases++) {
      const result = await this.#askServers(name, type, signal);
      if (result.kind === "failure") return result;
      ttlS = Math.min(ttlS, result.ttlS);
      if (result.kind === "alias") {
        const target = toAscii(result.name);
        if (target === null) return { kind: "failure", code: "a bad alias" };
        name = target;
        continue;
      }
      const outcome: Outcome =
        result.kind === "addresses"
          ? { kind: "addresses", addresses: result.addresses }
          : { kind: "none", nameExists: result.nameExists };
      this.#remember(key, outcome, ttlS);
      return outcome;
    }
    return { kind: "failure", code: "a chain of aliases without end" };
  }

  async #askServers(
    name: string,
    type: QueryType,
    signal: AbortSignal,
  ): Promise<Extract<DnsResult, { kind: "addresses" | "none" | "alias" | "failure" }>> {
    let code = "TIMEOUT";
    for (let round = 0; round < ROUNDS; round++) {
      const first = this.#preferred;
      for (let i = 0; i < this.#servers.length; i++) {
        const index = (first + i) % this.#servers.length;
        const question = { name, type, server: this.#servers[index], edns: true, timeoutMs: TIMEOUT_MS << round };
        let result = await ask(this.#means, question, signal);
        if (result.kind === "noEdns") result = await ask(this.#means, { ...question, edns: false }, signal);
        switch (result.kind) {
          case "addresses":
          case "none":
          case "alias":
            this.#preferred = index;
            return result;
          case "failure":
            code = result.code;
            break;
          default:
            code = "FORMERR";
        }
      }
    }
    return { kind: "failure", code };
  }

  #recall(key: string): Outcome | null {
    const entry = this.#cache.get(key);
    if (entry === undefined) return null;
    this.#cache.delete(key);
    if (entry.expires <= this.#clock.now()) return null;
    this.#cache.set(key, entry);
    return entry.outcome;
  }

  #remember(key: string, outcome: Outcome, ttlS: number): void {
    if (ttlS <= 0 || this.#closed) return;
    this.#cache.delete(key);
    if (this.#cache.size >= CACHE_MAX) this.#cache.delete(this.#cache.keys().next().value!);
    this.#cache.set(key, { outcome, expires: this.#clock.now() + ttlS * 1000 });
  }
}

/** `promise`, or the signal's reason if that comes first. */
function orAborted<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
    if (signal.aborted) onAbort();
  });
}

/** Lower case, without the last dot, other scripts in their ASCII form; null when it is no host name. */
function toAscii(name: string): string | null {
  let text = name.endsWith(".") ? name.slice(0, -1) : name;
  if (!/^[\x21-\x7e]+$/.test(text)) {
    try {
      text = new URL(`http://${text}`).hostname;
    } catch {
      return null;
    }
  }
  text = text.toLowerCase();
  if (text.length === 0 || text.length > NAME_MAX_LEN) return null;
  return text.split(".").every((label) => LABEL.test(label)) ? text : null;
}

function refuseDomain(domain: string): never {
  throw new RangeError(`Cannot open resolver: search domain ${quote(domain)} is not a domain`);
}

function notFound(name: string, why: string): WasmguardError {
  return new WasmguardError("ENOTFOUND", `Cannot resolve ${quote(name)}: ${why}`);
}
