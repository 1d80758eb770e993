// Which address of a peer's name to use, and when to ask for the name again: two small machines, stepped by what the
// core reports, by what a resolver found and by time. Pure: no clock, no timer, no resolver in here (endpoints.ts).
//
// The rules. An address on which a handshake completed is kept while the peer lives: whatever the resolver says, and
// wherever the peer roamed. One that does not answer is left for the next one of the name, IPv6 and IPv4 by turns,
// after one initiation when it never worked and after a few when it did. A name is asked for again when its time to
// live ends and when handshakes fail. Rejected: to send to all addresses at once (RFC 8305 has streams to choose from,
// a peer has one endpoint), and to ask for names only at failure: with a default route through the tunnel no resolver
// may be in reach by then, and what was learnt before is all there is.

import { REJECT_AFTER_TIME_MS, REKEY_TIMEOUT_MS } from "../assembly/protocol.ts";
import type { IpAddress } from "./ip.ts";

/** Initiations that an address may leave unanswered: one that never worked, and one that did. */
export const FRESH_INITIATION_COUNT = 1;
export const PROVEN_INITIATION_COUNT = 3;
/** After the last of them, shortly before the core would repeat it. */
export const ANSWER_TIME_MS = REKEY_TIMEOUT_MS - 500;

/** Between two questions for a name: when the resolver tells no time to live, and at least, whatever happens. */
export const INTERVAL_MS = 300_000;
export const INTERVAL_MIN_MS = 5000;
const INTERVAL_MAX_MS = 86_400_000;
/** After a failure, doubled by each further one up to INTERVAL_MS. */
export const RETRY_MS = 5000;

/** What became of an event: nothing, another address to use, or a reason to ask for the name again. */
export interface Decision {
  use: IpAddress | null;
  resolve: boolean;
}

const NOTHING: Decision = { use: null, resolve: false };

/** One peer's endpoint. Times are milliseconds of any one clock that never goes back. */
export class EndpointChoice {
  #candidates: IpAddress[] = [];
  /** the one we chose last */
  #chosen: IpAddress | null = null;
  /** the peer was heard from elsewhere since: its endpoint is not the chosen one */
  #roamed = false;
  /** a handshake completed on what is in use */
  #proven = false;
  #aliveAt = -Infinity;
  /** handshakes fail: however young the last one is, the peer does not live where we send to */
  #suspect = false;
  /** initiations since somebody answered, or since the choice */
  #unanswered = 0;
  #leaveAt = Infinity;

  /** When to call `tick`; Infinity = never. */
  get deadline(): number {
    return this.#leaveAt;
  }

  /** Call with what a resolver found, the best first, at least one. */
  resolved(addresses: readonly IpAddress[], now: number): Decision {
    const before = this.#candidates;
    this.#candidates = alternate(addresses);
    if (this.#lives(now)) return NOTHING;
    if (!this.#roamed) return this.#indexOfChosen() >= 0 ? NOTHING : this.#choose(0);
    // It went its own way: only a name that says something new knows better, unless nobody answers there.
    const news = before.length !== this.#candidates.length || this.#candidates.some((ip) => indexOf(before, ip) < 0);
    return news || this.#suspect ? this.#choose(0) : NOTHING;
  }

  /** Call after a handshake initiation was sent. */
  initiationSent(now: number): Decision {
    this.#unanswered++;
    const patience = this.#proven ? PROVEN_INITIATION_COUNT : FRESH_INITIATION_COUNT;
    if (this.#unanswered >= patience && this.#hasOther() && this.#leaveAt === Infinity) {
      this.#leaveAt = now + ANSWER_TIME_MS;
    }
    return { use: null, resolve: this.#unanswered === PROVEN_INITIATION_COUNT };
  }

  /** Call after a handshake completed or a session was confirmed. */
  answered(now: number): void {
    this.#aliveAt = now;
    this.#suspect = false;
    this.#proven = true;
    this.#unanswered = 0;
    this.#leaveAt = Infinity;
  }

  /** Call after an authenticated packet moved the endpoint. */
  roamed(now: number): void {
    this.#roamed = true;
    this.answered(now);
  }

  /** Call after the peer did not answer for KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, or a handshake was given up. */
  failed(): Decision {
    this.#suspect = true;
    return { use: null, resolve: true };
  }

  /** Call when the deadline is reached. */
  tick(now: number): Decision {
    if (now < this.#leaveAt) return NOTHING;
    this.#leaveAt = Infinity;
    if (!this.#hasOther()) return NOTHING;
    this.#suspect = true;
    return this.#choose(this.#roamed ? 0 : this.#indexOfChosen() + 1);
  }

  #lives(now: number): boolean {
    return !this.#suspect && now - this.#aliveAt < REJECT_AFTER_TIME_MS;
  }

  #indexOfChosen(): number {
    return this.#chosen === null ? -1 : indexOf(this.#candidates, this.#chosen);
  }

  /** Whether there is an address of the name that is not in use. */
  #hasOther(): boolean {
    const { length } = this.#candidates;
    return length > 1 || (length === 1 && (this.#roamed || this.#indexOfChosen() < 0));
  }

  #choose(index: number): Decision {
    this.#chosen = this.#candidates[index % this.#candidates.length];
    this.#roamed = false;
    this.#proven = false;
    this.#unanswered = 0;
    this.#leaveAt = Infinity;
    return { use: this.#chosen, resolve: false };
  }
}

/** When to ask for one name. */
export class NameSchedule {
  /** when to ask; Infinity while an answer is awaited */
  deadline: number;
  #askedAt = -Infinity;
  #failures = 0;

  constructor(now: number) {
    this.deadline = now;
  }

  /** Call before the resolver is asked. */
  asked(now: number): void {
    this.#askedAt = now;
    this.deadline = Infinity;
  }

  /** Call after it answered. @param ttlMs  undefined = it did not tell */
  answered(now: number, ttlMs = INTERVAL_MS): void {
    this.#failures = 0;
    this.deadline = now + Math.min(Math.max(ttlMs, INTERVAL_MIN_MS), INTERVAL_MAX_MS);
  }

  /** Call after it could not answer. */
  failed(now: number): void {
    this.deadline = now + Math.min(RETRY_MS * 2 ** Math.min(this.#failures++, 16), INTERVAL_MS);
  }

  /** Call when something asks for it earlier. */
  hurry(now: number): void {
    if (this.deadline === Infinity) return;
    this.deadline = Math.min(this.deadline, Math.max(now, this.#askedAt + INTERVAL_MIN_MS));
  }
}

/** In their order, but the families by turns, and none twice: a network without the one finds the other soon. */
function alternate(addresses: readonly IpAddress[]): IpAddress[] {
  const unique = addresses.filter((ip, i) => indexOf(addresses, ip) === i);
  const first = unique.filter(({ family }) => family === unique[0].family);
  const other = unique.filter(({ family }) => family !== unique[0].family);
  const turns: IpAddress[] = [];
  for (let i = 0; i < Math.max(first.length, other.length); i++) {
    turns.push(...first.slice(i, i + 1), ...other.slice(i, i + 1));
  }
  return turns;
}

function indexOf(addresses: readonly IpAddress[], { address }: IpAddress): number {
  return addresses.findIndex((ip) =>
    ip.address.length === address.length && ip.address.every((byte, i) => byte === address[i])
  );
}
