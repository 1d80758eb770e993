// What a handshake can meet, each a few actions on the workbench: for the page, and as tests of themselves.

import type { Action } from "./workbench.ts";

export interface Scenario {
  id: string;
  title: string;
  /** what to look for */
  text: string;
  actions: Action[];
  /** what the last actions must show: "a: reason", "b: event"; the tests hold it */
  shows: string[];
}

const send = (who: 0 | 1): Action => ({ do: "send", who });
const deliver = (at = 0): Action => ({ do: "deliver", at });
const drop = (at = 0): Action => ({ do: "drop", at });
const wait = (ms: number): Action => ({ do: "wait", ms });
/** a's first packet, and everything it takes until b has it */
const session: Action[] = [send(0), deliver(), deliver(), deliver()];

export const SCENARIOS: Scenario[] = [
  {
    id: "handshake", title: "A handshake", text: "The first packet waits until two messages have passed; it goes out under the new keys, and proves to b that a has them.",
    actions: session, shows: ["b: session_confirmed"],
  },
  {
    id: "psk", title: "Preshared keys differ", text: "The initiation is accepted: it does not contain the preshared key. The response does, and a refuses it.",
    actions: [{ do: "psk", who: 1 }, send(0), deliver(), deliver()], shows: ["a: bad_handshake"],
  },
  {
    id: "stranger", title: "The responder has another key", text: "b changed its private key and a does not know: mac1 is made for the old one, and b drops the message before any costly work.",
    actions: [{ do: "key", who: 1 }, send(0), deliver()], shows: ["b: bad_mac1"],
  },
  {
    id: "replay-initiation", title: "A replayed initiation", text: "An initiation is recorded and sent again: its timestamp is not newer than the last one, so it is refused.",
    actions: [send(0), { do: "repeat", at: 0 }, deliver(), deliver(0)], shows: ["b: old_timestamp"],
  },
  {
    id: "replay-data", title: "A replayed packet", text: "A data message arrives twice: the counter was seen, the second is dropped.",
    actions: [...session, send(0), { do: "repeat", at: 0 }, deliver(), deliver()], shows: ["b: replayed"],
  },
  {
    id: "clock", title: "A clock that goes back", text: "a's clock falls back by an hour. Its timestamps do not: each is later than the last, so b accepts the next initiation. Only a restart would forget.",
    actions: [{ do: "clock", who: 0, seconds: 3600 }, send(0), deliver(), drop(), { do: "clock", who: 0, seconds: -3600 }, wait(5400), deliver()], shows: ["b: response_sent"],
  },
  {
    id: "flip", title: "One flipped bit", text: "A bit of the encrypted static key is flipped. mac1 covers the message, and shows it first.",
    actions: [send(0), { do: "flip", at: 0, bit: 50 * 8 }, deliver()], shows: ["b: bad_mac1"],
  },
  {
    id: "lost", title: "A lost initiation", text: "Nothing answers; after five seconds and a third of jitter at most, a new initiation goes out: a new one, with new keys.",
    actions: [send(0), drop(), wait(5400)], shows: ["a: initiation_sent (attempt 2)"],
  },
  {
    id: "both", title: "Both at once", text: "Both sides begin in the same instant. Each answers the other and gives up its own handshake for it, so neither response finds one. Five seconds later the one with the shorter jitter begins again, and both are content.",
    actions: [send(0), send(1), deliver(), deliver(), deliver(), deliver(), wait(5095)], shows: ["b: initiation_sent (attempt 2)"],
  },
  {
    id: "cookie", title: "Under load", text: "A thousand initiations reach b at once. It asks for a cookie before it does any costly work; a repeats its initiation with mac2, and is let in.",
    actions: [{ do: "flood", who: 1 }, send(0), deliver(), deliver()], shows: ["a: cookie_received"],
  },
  {
    id: "roaming", title: "Roaming", text: "a moves to another address. Its next packet is authentic, so b follows, and answers there.",
    actions: [...session, { do: "roam", who: 0 }, send(0), deliver()], shows: ["b: roamed"],
  },
  {
    id: "rekey", title: "Keys grow old", text: "Two minutes later the initiator's next packet begins a new handshake; the old session carries it meanwhile.",
    actions: [...session, wait(121_000), send(0)], shows: ["a: initiation_sent"],
  },
  {
    id: "expired", title: "An expired session", text: "A packet is held back for more than three minutes: its session is too old to be accepted.",
    actions: [...session, send(0), wait(181_000), deliver()], shows: ["b: session_expired"],
  },
  {
    id: "silence", title: "Silence", text: "a sends, and nothing comes back for fifteen seconds: it takes the session for dead and begins anew.",
    actions: [...session, send(0), drop(), wait(15_400)], shows: ["a: peer_silent"],
  },
  {
    id: "forgotten", title: "Keys forgotten", text: "Nine minutes without a new session: every key is wiped.",
    actions: [...session, wait(545_000)], shows: ["a: keys_zeroed"],
  },
];
