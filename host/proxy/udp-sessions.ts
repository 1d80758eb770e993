// UDP sessions of a forward: a client's source address stands for a socket of its own on the other side, as in a NAT.
// Bounded: with no room left the one that was silent longest goes. A session ends after a time without a datagram
// either way (RFC 4787 §4.3: two minutes at least). One timer for all, and none while there is no session.

import type { Tally } from "./tally.ts";

/** A socket of one session towards the target. */
export interface UdpBack {
  /** Rejects when it cannot be sent. */
  send(payload: Uint8Array): Promise<void>;
  close(): void;
}

/** Opens the socket of a new session. Rejects when the target has no address. */
export type OpenBack = (onMessage: (payload: Uint8Array) => void, onClose: () => void) => Promise<UdpBack>;

/** Sends to a client, from the address that it sent to. */
export type Reply = (payload: Uint8Array, port: number, address: string) => void;

export interface UdpSessionsOptions {
  openBack: OpenBack;
  reply: Reply;
  tally: Tally;
  max: number;
  /** 0 = never */
  idleMs: number;
  /** why a datagram or a session failed, for a log */
  onFailure: (error: unknown) => void;
}

export const UDP_IDLE_MS = 120_000;
/** Datagrams that wait for the target's name, and that are on their way, of one session. */
const PENDING_MAX = 64;

interface Session {
  back: UdpBack | null;
  /** while `back` is not open yet */
  waiting: Uint8Array[];
  pending: number;
  /** performance.now() of the last datagram */
  last: number;
}

export class UdpSessions {
  readonly #options: UdpSessionsOptions;
  /** by source, those that were silent longest first */
  readonly #sessions = new Map<string, Session>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  constructor(options: UdpSessionsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** A datagram of a client. The payload is ours from here on. */
  receive(payload: Uint8Array, address: string, port: number): void {
    if (this.#closed) return;
    const { tally } = this.#options;
    const key = `${address} ${port}`;
    const session = this.#sessions.get(key) ?? this.#begin(key, address, port);
    this.#touch(key, session);
    tally.sentBytes += payload.length;
    if (session.pending + session.waiting.length >= PENDING_MAX) tally.dropped("queue-full");
    else if (session.back === null) session.waiting.push(payload);
    else this.#send(session, payload);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const [key, session] of this.#sessions) this.#end(key, session);
  }

  /** Ends all sessions: their sockets are of a tunnel that is gone. */
  clear(): void {
    for (const [key, session] of this.#sessions) this.#end(key, session);
  }

  #begin(key: string, address: string, port: number): Session {
    const { openBack, reply, tally, max, onFailure } = this.#options;
    const [oldest] = this.#sessions;
    if (this.#sessions.size >= max && oldest) {
      tally.failed("limit");
      this.#end(...oldest);
    }
    const session: Session = { back: null, waiting: [], pending: 0, last: 0 };
    this.#sessions.set(key, session);
    tally.accepted++;
    tally.open++;
    const isCurrent = () => this.#sessions.get(key) === session;
    const onMessage = (payload: Uint8Array) => {
      if (!isCurrent()) return;
      this.#touch(key, session);
      tally.receivedBytes += payload.length;
      reply(payload, port, address);
    };
    const onClose = () => {
      if (isCurrent()) this.#end(key, session);
    };
    openBack(onMessage, onClose).then(
      (back) => {
        if (!isCurrent()) return back.close();
        session.back = back;
        for (const payload of session.waiting.splice(0)) this.#send(session, payload);
      },
      (error: unknown) => {
        onFailure(error);
        if (isCurrent()) this.#end(key, session);
      },
    );
    return session;
  }

  #send(session: Session, payload: Uint8Array): void {
    session.pending++;
    session.back!.send(payload).then(
      () => void session.pending--,
      (error: unknown) => {
        session.pending--;
        if (!this.#closed) this.#options.onFailure(error);
      },
    );
  }

  /** It lives: the last to be ended. */
  #touch(key: string, session: Session): void {
    session.last = performance.now();
    if (!this.#sessions.delete(key)) return;
    this.#sessions.set(key, session);
    if (this.#timer === undefined && this.#options.idleMs > 0) this.#arm(this.#options.idleMs);
  }

  #end(key: string, session: Session): void {
    if (!this.#sessions.delete(key)) return;
    this.#options.tally.open--;
    session.waiting.length = 0;
    session.back?.close();
  }

  #arm(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const { idleMs } = this.#options;
      const now = performance.now();
      for (const [key, session] of this.#sessions) {
        const left = session.last + idleMs - now;
        if (left > 0) return this.#arm(Math.ceil(left));
        this.#end(key, session);
      }
    }, ms);
  }
}
