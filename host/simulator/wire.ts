// The network between the nodes: addresses are "IP:port" texts, a datagram takes `delay` to arrive, and every fault a
// network has is a probability or a script. Faults are drawn from a stream of the wire's own, in a fixed order for each
// datagram, so that a run repeats.
//
// What it does not have: queues and bandwidth. Time here is the protocol's, not a link's.
import type { Stream } from "./random.ts";
import { describe } from "./message.ts";
import type { Trace } from "./trace.ts";
import { hashOf } from "./trace.ts";

export interface Datagram {
  from: string;
  to: string;
  bytes: Uint8Array;
  /** DSCP and ECN of the outer header */
  tos: number;
}

export interface Faults {
  /** probabilities, 0..1 */
  loss: number;
  duplicate: number;
  /** one to three flipped bits */
  corrupt: number;
  /** held back for up to `hold` */
  reorder: number;
  /** the sender's NAT gives it another port before this datagram */
  rebind: number;
  /** ns: every datagram takes delay .. delay + jitter */
  delay: number;
  jitter: number;
  hold: number;
}

export const PERFECT: Faults = {
  loss: 0, duplicate: 0, corrupt: 0, reorder: 0, rebind: 0, delay: 10_000_000, jitter: 0, hold: 0,
};

export interface Sent extends Datagram {
  /** ns */
  time: number;
}

export interface WireHost {
  now(): number;
  schedule(time: number, action: () => void): void;
  /** hands a datagram to whoever has the address now */
  arrive(datagram: Datagram): void;
  /** gives the owner of an address another one, and returns it */
  rebind(address: string): string;
}

export class Wire {
  faults: Faults = { ...PERFECT };
  /**
   * A script, asked before the faults: the datagrams to carry on with ([] loses it), or nothing to leave it alone. It
   * may schedule copies for later with inject().
   */
  hook: ((datagram: Datagram, time: number) => Datagram[] | void) | undefined;
  /** everything nodes sent, before hook and faults; unset to keep nothing */
  sent: Sent[] | undefined = [];
  readonly #host: WireHost;
  readonly #stream: Stream;
  readonly #trace: Trace;

  constructor(host: WireHost, stream: Stream, trace: Trace) {
    this.#host = host;
    this.#stream = stream;
    this.#trace = trace;
  }

  /** A node sent this. */
  send(datagram: Datagram): void {
    const time = this.#host.now();
    this.sent?.push({ ...datagram, time });
    const carried = this.hook?.(datagram, time) ?? [datagram];
    for (const each of carried) this.#carry(each, time);
  }

  /** Puts a datagram on the wire that no node sent, to arrive after `after` ns, with no faults. */
  inject(datagram: Datagram, after = 0): void {
    this.#host.schedule(this.#host.now() + after, () => this.#host.arrive(datagram));
  }

  /** What was sent of a type ("initiation", "response", "cookie", "data", "keepalive"), perhaps from one address. */
  of(type: string, from?: string): Sent[] {
    return (this.sent ?? []).filter((it) => describe(it.bytes) === type && (from === undefined || it.from === from));
  }

  #carry(datagram: Datagram, time: number): void {
    const { faults } = this;
    const stream = this.#stream;
    const lost = stream.chance(faults.loss);
    const copies = stream.chance(faults.duplicate) ? 2 : 1;
    if (stream.chance(faults.rebind)) {
      const from = this.#host.rebind(datagram.from);
      this.#trace.add(time, "~", "rebind", `${datagram.from} ${from}`);
      datagram = { ...datagram, from };
    }
    if (lost) {
      this.#trace.add(time, "~", "lose", `${describe(datagram.bytes)} ${hashOf(datagram.bytes)}`);
      return;
    }
    for (let copy = 0; copy < copies; copy++) {
      const corrupt = stream.chance(faults.corrupt);
      const held = stream.chance(faults.reorder) ? stream.below(faults.hold + 1) : 0;
      const after = faults.delay + stream.below(faults.jitter + 1) + held;
      const each = corrupt ? { ...datagram, bytes: this.#corrupt(datagram.bytes) } : datagram;
      this.#host.schedule(time + after, () => this.#host.arrive(each));
    }
  }

  #corrupt(bytes: Uint8Array): Uint8Array {
    const corrupt = bytes.slice();
    for (let flips = 1 + this.#stream.below(3); flips > 0; flips--) {
      const bit = this.#stream.below(bytes.length * 8);
      corrupt[bit >> 3] ^= 1 << (bit & 7);
    }
    return corrupt;
  }
}
