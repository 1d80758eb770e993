// What a tunnel tells of itself, made of the core's events: the few that a program acts upon, with peers by public key.

import {
  EVENT_HANDSHAKE_COMPLETE, EVENT_HANDSHAKE_GIVEN_UP, EVENT_KEYS_ZEROED, EVENT_PEER_SILENT, EVENT_ROAMED,
  EVENT_SESSION_CONFIRMED, EVENT_UNDER_LOAD,
} from "../../assembly/abi.ts";
import type { CoreEvent } from "../driver.ts";

/** Why a peer is held to be silent: */
export type SilentReason =
  /** it answered nothing for 15 seconds; a new handshake begins */
  | "unanswered"
  /** no handshake for 90 seconds, and what waited for it was dropped; the next packet begins anew */
  | "givenUp"
  /** no new session for 540 seconds: the keys of the last one are wiped */
  | "keysWiped";

export interface TunnelEvents {
  /** The first session with a peer stands, or the first after its keys were wiped. */
  handshake: [{ peer: string; role: "initiator" | "responder" }];
  /** A session followed another, about every two minutes under traffic. */
  rekeyed: [{ peer: string; role: "initiator" | "responder" }];
  /** A peer's packets come from another address now. */
  roamed: [{ peer: string; endpoint: string }];
  silent: [{ peer: string; reason: SilentReason }];
  /** So many handshakes come that each needs a cookie; or it is over. */
  underLoad: [{ active: boolean }];
  /** The tunnel has ended: by close() or its signal, or by an error of its transport. */
  closed: [{ error: Error | null }];
}

export interface PeerNames {
  /** base64; null when it is gone */
  publicKey(peer: number): string | null;
  /** text; null when it is not known */
  endpoint(peer: number): string | null;
}

type Emission = { [Name in keyof TunnelEvents]: [name: Name, ...rest: TunnelEvents[Name]] }[keyof TunnelEvents];

/** bounds the sets below: far more than any program has peers; beyond it a rekey counts as a handshake */
const KNOWN_MAX = 1 << 20;

/** Turns core events into ours; it remembers who has a session, to tell a handshake from a rekey. */
export class EventReader {
  readonly #names: PeerNames;
  readonly #known = new Set<string>();
  /** who ever had one: before that an endpoint is learnt, not changed */
  readonly #met = new Set<string>();

  constructor(names: PeerNames) {
    this.#names = names;
  }

  read({ type, peer: number, argument }: CoreEvent): Emission | null {
    if (type === EVENT_UNDER_LOAD) return ["underLoad", { active: argument === 1 }];
    const peer = this.#names.publicKey(number);
    if (peer === null) return null;
    switch (type) {
      case EVENT_HANDSHAKE_COMPLETE:
        // The responder's session counts when the initiator has used it: before that it cannot send.
        return argument === 1 ? this.#session(peer, "initiator") : null;
      case EVENT_SESSION_CONFIRMED:
        return this.#session(peer, "responder");
      case EVENT_ROAMED: {
        if (!this.#met.has(peer)) return null;
        const endpoint = this.#names.endpoint(number);
        return endpoint === null ? null : ["roamed", { peer, endpoint }];
      }
      case EVENT_PEER_SILENT:
        return ["silent", { peer, reason: "unanswered" }];
      case EVENT_HANDSHAKE_GIVEN_UP:
        return ["silent", { peer, reason: "givenUp" }];
      case EVENT_KEYS_ZEROED:
        this.#known.delete(peer);
        return ["silent", { peer, reason: "keysWiped" }];
      default:
        return null;
    }
  }

  forget(peer: string): void {
    this.#known.delete(peer);
    this.#met.delete(peer);
  }

  #session(peer: string, role: "initiator" | "responder"): Emission {
    if (this.#known.has(peer)) return ["rekeyed", { peer, role }];
    if (this.#met.size >= KNOWN_MAX) return ["handshake", { peer, role }];
    this.#known.add(peer);
    this.#met.add(peer);
    return ["handshake", { peer, role }];
  }
}
