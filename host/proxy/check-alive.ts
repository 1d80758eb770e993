// Whether a tunnel lives. With CheckAlive: each address has answered a ping within the interval (and two seconds for
// the way). Without: a handshake is younger than REJECT_AFTER_TIME, so a session can stand. A tunnel that is not asked
// for anything and has no keepalive is not alive in that sense: it cannot know.

import type { DeviceState } from "../model.ts";
import type { CheckAlive } from "./sections.ts";
import type { ProxyTunnel } from "./types.ts";

/** seconds: REJECT_AFTER_TIME of the protocol */
const HANDSHAKE_MAX_SEC = 180;
const LEEWAY_MS = 2_000;

export interface Health {
  ready: boolean;
  /** "10.0.0.1 has not answered for 12 s" */
  reason?: string;
  /** Unix seconds of the last answer by address, 0 = never */
  checkAlive: Record<string, number>;
}

export class AliveCheck {
  readonly #settings: CheckAlive;
  readonly #tunnel: ProxyTunnel;
  /** milliseconds since the epoch */
  readonly #answered = new Map<string, number>();
  readonly #abort = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(settings: CheckAlive, tunnel: ProxyTunnel) {
    this.#settings = settings;
    this.#tunnel = tunnel;
    for (const address of settings.addresses) this.#answered.set(address, 0);
    if (settings.addresses.length > 0) this.#round();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  health(now = Date.now()): Health {
    const checkAlive = Object.fromEntries([...this.#answered].map(([ip, ms]) => [ip, Math.floor(ms / 1000)]));
    const reason = this.#answered.size > 0 ? this.#unanswered(now) : withoutHandshake(this.#tunnel.state(), now);
    return reason === undefined ? { ready: true, checkAlive } : { ready: false, reason, checkAlive };
  }

  #unanswered(now: number): string | undefined {
    const late = this.#settings.intervalSec * 1000 + LEEWAY_MS;
    for (const [address, at] of this.#answered) {
      if (at === 0) return `${address} has not answered yet`;
      if (now - at > late) return `${address} has not answered for ${Math.floor((now - at) / 1000)} s`;
    }
    return undefined;
  }

  #round(): void {
    const ms = this.#settings.intervalSec * 1000;
    for (const address of this.#answered.keys()) {
      this.#tunnel.ping(address, { timeoutMs: ms + LEEWAY_MS, signal: this.#abort.signal }).then(
        () => void this.#answered.set(address, Date.now()),
        () => {}, // its time stays what it was
      );
    }
    this.#timer = setTimeout(() => this.#round(), ms);
  }
}

function withoutHandshake({ peers }: DeviceState, now: number): string | undefined {
  const last = Math.max(0, ...peers.map(({ lastHandshake }) => Number(lastHandshake.sec)));
  if (last === 0) return "no handshake yet";
  const seconds = Math.floor(now / 1000) - last;
  return seconds > HANDSHAKE_MAX_SEC ? `no handshake for ${seconds} s` : undefined;
}
