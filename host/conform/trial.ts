// Our end of a tunnel with the peer under test: every step of a handshake as a call of its own, so that a check can
// leave one out, change any field, or do it twice. A trial has static keys, ports and an inbox of its own.

import { Deviation, Unable, hex, must, sleep } from "./check.ts";
import { type Echo, type Family, echoPacket, readEcho } from "./inner.ts";
import {
  type Bytes,
  type End,
  NO_PSK,
  Symmetric,
  DH_PUBLIC,
  equal,
  initiationBody,
  initiationMessage,
  mac1Is,
  openInitiation,
  openResponse,
  readLe32,
  responseBody,
  responseMessage,
  tai64n,
  withMacs,
} from "./noise.ts";
import { ANSWER_MS, type Address, Inbox, Port, type Received } from "./port.ts";
import { KEEPALIVE, Session } from "./session.ts";
import type { Uapi } from "./uapi.ts";

/** The peer, and what we can do with it. */
export interface Target {
  address: Address;
  family: Family;
  publicKey: Bytes;
  uapi?: Uapi;
  system?: System;
  /** stamps of our initiations: one clock for all trials, as a peer knows us by our key */
  stamps: Stamps;
}

/** A hand on the peer's system. */
export interface System {
  /** pings `to` through the peer's interface; resolves when all are sent and the wait for answers is over */
  ping(to: string, options?: { count?: number; size?: number }): Promise<void>;
  /** another address of ours and of the peer, outside of the tunnel */
  ourOther: string;
  theirOther: string;
  mtu: number;
  /** has somebody else bind a UDP port there */
  takePort(): { port: Promise<number>; release: () => Promise<void> };
  /** packets that the peer's interface has handed to its system so far */
  delivered(): number;
}

/** How a trial stands with the peer. */
export interface Position {
  priv: Bytes;
  psk?: Bytes;
  /** our address in the tunnel, and one there that answers echoes */
  inner: Partial<Record<Family, { ours: string; theirs: string }>>;
  port: Port;
  inbox: Inbox;
  /** address of `port`, where it is known */
  host?: string;
  /** the port outlives the trial */
  keepsPort?: boolean;
  /** sessions that trials before this one had with the same peer: it may still send under them */
  sessions?: Session[];
  /** makes a second position, of another peer */
  another?: () => Promise<Trial>;
}

/** TAI64N stamps, each later than all before. §5.1 */
export class Stamps {
  #last = 0n;

  next(): Bytes {
    const now = BigInt(Date.now()) * 1_000_000n;
    this.#last = now > this.#last ? now : this.#last + 1_000_000n;
    return this.at(this.#last);
  }

  /** @param ns  since 1970 */
  at(ns: bigint): Bytes {
    return tai64n(Number(ns / 1_000_000_000n), Number(ns % 1_000_000_000n));
  }
}

export interface InitiationOptions {
  /** ours if not given, like all below */
  priv?: Bytes;
  /** the responder's key in the handshake, and in mac1 */
  responder?: Bytes;
  mac1Key?: Bytes;
  sender?: number;
  timestamp?: Bytes;
  cookie?: Bytes;
}

export interface Initiation {
  message: Bytes;
  sender: number;
  ephemeral: Bytes;
  state: Symmetric;
  priv: Bytes;
}

/** An initiation of the peer's, opened. */
export interface Offer {
  received: Received;
  sender: number;
  ephemeral: Bytes;
  timestamp: Bytes;
  state: Symmetric;
}

/** A data message of the peer's, opened. */
export interface Packet {
  plain: Bytes;
  counter: bigint;
  received: Received;
}

export interface ReplyOptions {
  timeoutMs?: number;
  /** the port of ours it has to come to; any, if not given */
  port?: Port;
}

/** An accepted initiation less than 20 ms before another makes the kernel refuse that one. */
const INITIATION_GAP_MS = 40;

export const type = ({ bytes }: Received): number => (bytes.length >= 4 ? readLe32(bytes, 0) : -1);
export const random = (length: number): Bytes => crypto.getRandomValues(new Uint8Array(length));
export const randomIndex = (): number => readLe32(random(4), 0);

export class Trial {
  readonly target: Target;
  readonly end: End;
  readonly publicKey: Bytes;
  readonly inbox: Inbox;
  readonly port: Port;
  psk: Bytes;
  onClose: () => Promise<void> = async () => {};
  readonly #position: Position;
  readonly #opened: Port[] = [];
  readonly #sessions: Session[];
  readonly #echoId = readLe32(random(4), 0) & 0xffff;
  #sequence = 0;
  #answeredAt = 0;

  constructor(target: Target, position: Position) {
    this.target = target;
    this.#position = position;
    this.end = { priv: position.priv, remote: target.publicKey };
    this.publicKey = DH_PUBLIC(position.priv);
    this.psk = position.psk ?? NO_PSK;
    this.inbox = position.inbox;
    this.port = position.port;
    this.#sessions = position.sessions ?? [];
  }

  /** Closes its ports, and what it has at the peer. */
  async close(): Promise<void> {
    for (const port of this.#opened) port.close();
    if (!this.#position.keepsPort) this.port.close();
    await this.onClose();
  }

  /** Lets the peer forget the rate of the initiations before this trial. */
  rest(): void {
    this.#answeredAt = performance.now();
  }

  /** Another port of ours, closed with the trial. */
  async openPort(host?: string, number?: number): Promise<Port> {
    const port = await Port.open(this.target.family, this.inbox, { host, port: number });
    this.#opened.push(port);
    return port;
  }

  /** A second peer of the device under test. */
  another(): Promise<Trial> {
    if (!this.#position.another) throw new Unable("it needs a second peer");
    return this.#position.another();
  }

  /** Where the peer finds us, as the UAPI writes it. */
  get ownEndpoint(): string {
    const host = this.#position.host ?? "127.0.0.1";
    return host.includes(":") ? `[${host}]:${this.port.number}` : `${host}:${this.port.number}`;
  }

  get uapi(): Uapi {
    if (!this.target.uapi) throw new Unable("it needs the UAPI socket");
    return this.target.uapi;
  }

  get system(): System {
    if (!this.target.system) throw new Unable("it needs a hand on the peer's system");
    return this.target.system;
  }

  /** Changes this peer of the device under test. @throws Deviation when it refuses */
  configure(...lines: string[]): Promise<void> {
    return this.uapi.set(`public_key=${hex(this.publicKey)}`, ...lines);
  }

  /** What the device under test tells of this peer. @throws Deviation when it does not know it */
  async told(): Promise<string[]> {
    const lines = await this.uapi.peer(hex(this.publicKey));
    must(lines, "the peer is not in the answer to get=1");
    return lines;
  }

  inner(family: Family = 4): { ours: string; theirs: string } {
    const inner = this.#position.inner[family];
    if (!inner) throw new Unable(`it needs IPv${family} addresses in the tunnel`);
    return inner;
  }

  /** Whether the tunnel has addresses of the family. */
  has(family: Family): boolean {
    return this.#position.inner[family] !== undefined;
  }

  /** IPv4 if there are such addresses in the tunnel, else IPv6. */
  get innerFamily(): Family {
    return this.#position.inner[4] || !this.#position.inner[6] ? 4 : 6;
  }

  send(message: Bytes, port = this.port, to = this.target.address): Promise<void> {
    return port.send(message, to);
  }

  // --- the handshake, we begin -----------------------------------------------------------------------------------

  initiation(options: InitiationOptions = {}): Initiation {
    const { responder = this.target.publicKey, priv = this.end.priv, sender = randomIndex() } = options;
    const ephemeral = random(32);
    const timestamp = options.timestamp ?? this.target.stamps.next();
    const { state, body } = initiationBody({ priv, remote: responder }, ephemeral, timestamp);
    const message = withMacs(initiationMessage(sender, body), options.mac1Key ?? responder, options.cookie);
    return { message, sender, ephemeral, state, priv };
  }

  /** What comes in answer to an initiation: a response, a cookie reply, or null. */
  answer({ sender }: { sender: number }, timeoutMs = ANSWER_MS): Promise<Received | null> {
    const want = (it: Received): boolean =>
      (type(it) === 2 && it.bytes.length >= 12 && readLe32(it.bytes, 8) === sender) ||
      (type(it) === 3 && it.bytes.length >= 8 && readLe32(it.bytes, 4) === sender);
    return this.inbox.next(want, timeoutMs);
  }

  /** Opens a response. @throws Deviation when it is not one to this initiation */
  finish({ sender, ephemeral, state, priv }: Initiation, { bytes, at }: Received, psk = this.psk): Session {
    must(bytes.length === 92, `a response of ${bytes.length} bytes`);
    must(readLe32(bytes, 0) === 2, `a response of type ${readLe32(bytes, 0)}`);
    this.#answeredAt = at;
    const fork = state.clone();
    try {
      openResponse(fork, priv, ephemeral, psk, bytes.slice(12, 60));
    } catch {
      throw new Deviation("the response does not open");
    }
    const [sending, receiving] = fork.split();
    return this.#begun(new Session(sender, readLe32(bytes, 4), sending, receiving));
  }

  /** Sends an initiation. @returns it and what came */
  async begin(options: InitiationOptions = {}, port = this.port): Promise<{ made: Initiation; got: Received | null }> {
    const rest = this.#answeredAt + INITIATION_GAP_MS - performance.now();
    if (rest > 0) await sleep(rest);
    const made = this.initiation(options);
    await this.send(made.message, port);
    const got = await this.answer(made);
    this.#answeredAt = performance.now();
    return { made, got };
  }

  /**
   * A whole handshake that we begin, with the empty packet that confirms it unless `confirm` is false.
   * @throws Deviation when the peer does not answer: twice, for a datagram may be lost
   */
  async handshake(options: InitiationOptions & { confirm?: boolean; port?: Port } = {}): Promise<Session> {
    for (let attempt = 1; ; attempt++) {
      const { made, got } = await this.begin(options, options.port);
      if (!got && attempt < 3) continue;
      must(got, "a right initiation is not answered");
      must(type(got) === 2, "a right initiation is answered by a cookie reply, without load");
      const session = this.finish(made, got);
      if (options.confirm !== false) await this.send(session.seal(KEEPALIVE), options.port);
      return session;
    }
  }

  // --- the handshake, the peer begins ------------------------------------------------------------------------------

  /** Waits for an initiation of the peer's. @throws Deviation when it is not one for us */
  async offer(timeoutMs = ANSWER_MS): Promise<Offer | null> {
    const received = await this.inbox.next((it) => it.bytes[0] === 1 && it.bytes.length >= 100, timeoutMs);
    return received && this.read(received);
  }

  read(received: Received): Offer {
    const { bytes } = received;
    must(bytes.length === 148, `an initiation of ${bytes.length} bytes`);
    must(mac1Is(bytes, this.publicKey), "an initiation whose mac1 is not for our key");
    try {
      const { state, ephemeral, remote, payload } = openInitiation(this.end.priv, bytes.slice(8, 116));
      must(equal(remote, this.target.publicKey), "an initiation with another static key than the peer's");
      return { received, sender: readLe32(bytes, 4), ephemeral, timestamp: payload, state };
    } catch (error) {
      if (error instanceof Deviation) throw error;
      throw new Deviation("an initiation that does not open");
    }
  }

  /** Makes the peer begin a handshake. @throws Unable, or Deviation when it does not */
  async provoke(): Promise<Offer> {
    if (this.target.system) {
      void this.system.ping(this.inner().ours);
      const offer = await this.offer();
      must(offer, "a packet for us leads to no initiation");
      return offer;
    }
    // A peer that has sent data and hears nothing for 15 s begins a handshake. §6.5
    const session = await this.handshake();
    const reply = await this.echo(session);
    must(reply, "an echo request is not answered");
    const offer = await this.offer(17_000);
    must(offer, "15 s of silence after data lead to no initiation");
    return offer;
  }

  /** A response to the peer's initiation, and the session if the peer takes it. */
  respond(
    offer: Offer,
    options: { psk?: Bytes; priv?: Bytes; sender?: number } = {},
  ): { message: Bytes; session: Session } {
    const { psk = this.psk, sender = randomIndex() } = options;
    const state = offer.state.clone();
    const body = responseBody(state, random(32), offer.ephemeral, this.target.publicKey, psk, KEEPALIVE);
    const message = withMacs(responseMessage(sender, offer.sender, body), this.target.publicKey);
    const [receiving, sending] = state.split();
    return { message, session: this.#begun(new Session(sender, offer.sender, sending, receiving)) };
  }

  /** Takes the peer's initiation. @returns a session under which the peer has sent something */
  async accept(offer: Offer): Promise<Session> {
    const { message, session } = this.respond(offer);
    await this.send(message);
    must(await this.data(session), "a right response is not followed by data");
    return session;
  }

  // --- data --------------------------------------------------------------------------------------------------------

  /** The next data message of a session, opened; null when none comes. @throws Deviation when it does not open */
  async data(
    session: Session,
    want: (plain: Bytes) => boolean = () => true,
    { timeoutMs = ANSWER_MS, port }: ReplyOptions = {},
  ): Promise<Packet | null> {
    const wanted = (it: Received): boolean =>
      session.owns(it) && (!port || it.port === port) && want(session.open(it.bytes).plain);
    const received = await this.inbox.next(wanted, timeoutMs);
    return received && { ...session.open(received.bytes), received };
  }

  /** An echo request for the peer's system. */
  request({
    family = this.innerFamily,
    size = 24,
    source,
  }: { family?: Family; size?: number; source?: string } = {}): Echo {
    const { ours, theirs } = this.inner(family);
    const data = Uint8Array.from({ length: size }, (_, i) => i);
    const sequence = ++this.#sequence & 0xffff;
    return { family, kind: "request", source: source ?? ours, destination: theirs, id: this.#echoId, sequence, data };
  }

  /**
   * The answer to an echo request, as the data message it came in: under any session with this peer, because it may go
   * on with the one before for a moment after a new one was confirmed.
   */
  async reply({ id, sequence }: Echo, { timeoutMs = ANSWER_MS, port }: ReplyOptions = {}): Promise<Packet | null> {
    const wanted = (it: Received): boolean => {
      const session = this.#sessions.find((session) => session.owns(it));
      const echo = session && (!port || it.port === port) && readEcho(session.open(it.bytes).plain);
      return echo ? echo.kind === "reply" && echo.id === id && echo.sequence === sequence : false;
    };
    const received = await this.inbox.next(wanted, timeoutMs);
    const session = received && this.#sessions.find((session) => session.owns(received));
    return session ? { ...session.open(received.bytes), received } : null;
  }

  /** Sends an echo request under the session, and waits for the reply. */
  async echo(
    session: Session,
    options: { counter?: bigint; from?: Port; family?: Family; size?: number } & ReplyOptions = {},
  ): Promise<Packet | null> {
    const request = this.request(options);
    await this.send(session.seal(echoPacket(request), options.counter), options.from);
    return this.reply(request, options);
  }

  #begun(session: Session): Session {
    this.#sessions.push(session);
    return session;
  }
}
