// What the core's events are called, and how a log tells them.

import {
  EVENT_COOKIE_RECEIVED, EVENT_COOKIE_SENT, EVENT_HANDSHAKE_COMPLETE, EVENT_HANDSHAKE_GIVEN_UP,
  EVENT_INITIATION_RECEIVED, EVENT_INITIATION_SENT, EVENT_KEEPALIVE_SENT, EVENT_KEYS_ZEROED, EVENT_PEER_SILENT,
  EVENT_RESPONSE_SENT, EVENT_ROAMED, EVENT_SESSION_CONFIRMED, EVENT_UNDER_LOAD,
} from "../assembly/abi.ts";
import type { CoreEvent } from "./driver.ts";

interface Meaning {
  name: EventName;
  /** for people; the argument is the event's */
  text: (argument: number) => string;
}

export type EventName =
  | "initiationSent" | "initiationReceived" | "responseSent" | "handshakeComplete" | "sessionConfirmed"
  | "handshakeGivenUp" | "keepaliveSent" | "keysZeroed" | "roamed" | "cookieReceived" | "cookieSent" | "underLoad"
  | "peerSilent";

/** An event as programs see it. */
export interface DeviceEvent {
  name: EventName;
  /** base64; null when it is about no peer, or about one that is gone */
  peer: string | null;
  /** initiationSent: the attempt; handshakeComplete: 1 as initiator, 2 as responder; underLoad: 1 entered, 0 left */
  argument: number;
  /** ms since 1970 */
  time: number;
}

/** The peer of an event that is about none. */
export const NO_PEER = 0xffffffff;

// prettier-ignore
const MEANINGS: Record<number, Meaning> = {
  [EVENT_INITIATION_SENT]: { name: "initiationSent", text: (attempt) => `Sending handshake initiation${attempt > 1 ? ` (attempt ${attempt})` : ""}` },
  [EVENT_INITIATION_RECEIVED]: { name: "initiationReceived", text: () => "Received handshake initiation" },
  [EVENT_RESPONSE_SENT]: { name: "responseSent", text: () => "Sending handshake response" },
  [EVENT_HANDSHAKE_COMPLETE]: { name: "handshakeComplete", text: (role) => role === 1 ? "Received handshake response: new session" : "New session, to be confirmed" },
  [EVENT_SESSION_CONFIRMED]: { name: "sessionConfirmed", text: () => "Session confirmed" },
  [EVENT_HANDSHAKE_GIVEN_UP]: { name: "handshakeGivenUp", text: (attempts) => `Handshake did not complete after ${attempts} attempts, giving up` },
  [EVENT_KEEPALIVE_SENT]: { name: "keepaliveSent", text: () => "Sending keepalive packet" },
  [EVENT_KEYS_ZEROED]: { name: "keysZeroed", text: () => "Keys wiped: no new session for 540 seconds" },
  [EVENT_ROAMED]: { name: "roamed", text: () => "Roamed to a new endpoint" },
  [EVENT_COOKIE_RECEIVED]: { name: "cookieReceived", text: () => "Received cookie" },
  [EVENT_COOKIE_SENT]: { name: "cookieSent", text: () => "Under load: sent a cookie" },
  [EVENT_UNDER_LOAD]: { name: "underLoad", text: (entered) => entered ? "Under load: handshakes need a cookie" : "No longer under load" },
  [EVENT_PEER_SILENT]: { name: "peerSilent", text: () => "No answer for 15 seconds: new handshake" },
};

/** @throws RangeError for a type that the core does not have */
export function eventName(type: number): EventName {
  const meaning = MEANINGS[type];
  if (!meaning) throw new RangeError(`no event has the number ${type}`);
  return meaning.name;
}

export function eventText({ type, argument }: CoreEvent): string {
  return MEANINGS[type]?.text(argument) ?? `event ${type}`;
}
