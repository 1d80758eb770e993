// A peer that begins a handshake: what it sends, which response it takes, and what waits meanwhile.

import { type Check, hex, must, mustBeWithin, seconds, sleep } from "../check.ts";
import { readEcho } from "../inner.ts";
import { type Bytes, concat, DH, DH_PUBLIC, equal, NO_PSK, readLe32, responseMessage, withMacs } from "../noise.ts";
import { KEEPALIVE, Session } from "../session.ts";
import { type Offer, type Trial, random, randomIndex } from "../trial.ts";
import { flipped, LOW_ORDER, SILENCE_MS } from "./common.ts";

/** §6.1, ms */
const REKEY_TIMEOUT = 5000;
const JITTER_MAX = 334;
/** Linux queueing.h MAX_STAGED_PACKETS, wireguard-go QueueStagedSize */
const STAGED_MAX = 128;

/** The peer takes none of these responses to its initiation, and then takes a right one. */
async function refused(
  trial: Trial,
  kinds: [what: string, make: (offer: Offer) => { message: Bytes; session: Session }][],
): Promise<void> {
  const offer = await trial.provoke();
  const made = kinds.map(([what, make]) => ({ what, ...make(offer) }));
  for (const { message } of made) await trial.send(message);
  await sleep(SILENCE_MS);
  for (const { what, session } of made)
    must(!(await trial.data(session, undefined, { timeoutMs: 1 })), `${what} is taken`);
  const right = trial.respond(offer);
  await trial.send(right.message);
  must(await trial.data(right.session), "a right response after them is not taken");
}

/** A right response, changed. */
const spoilt =
  (trial: Trial, spoil: (message: Bytes) => Bytes) =>
  (offer: Offer): { message: Bytes; session: Session } => {
    const { message, session } = trial.respond(offer);
    return { message: spoil(message), session };
  };

/** A response with any public ephemeral, whose two DH with it give zeros. */
function forged(trial: Trial, offer: Offer, E: Bytes): { message: Bytes; session: Session } {
  const state = offer.state.clone();
  const nothing = new Uint8Array(32);
  state.mixKey(E);
  state.mixHash(E);
  state.mixDh(nothing);
  state.mixDh(nothing);
  const k = state.mixPsk(trial.psk);
  const sender = randomIndex();
  const body = concat(E, state.seal(k, KEEPALIVE));
  const [receiving, sending] = state.split();
  return {
    message: withMacs(responseMessage(sender, offer.sender, body), trial.target.publicKey),
    session: new Session(sender, offer.sender, sending, receiving),
  };
}

const remac = (trial: Trial, message: Bytes): Bytes => withMacs(message.slice(0, -32), trial.target.publicKey);

/** Sequence numbers of the peer's pings that come under the session within the time, in order of arrival. */
async function pings(trial: Trial, session: Session, quietMs = 700): Promise<{ sequence: number; counter: bigint }[]> {
  const came: { sequence: number; counter: bigint }[] = [];
  for (;;) {
    const got = await trial.data(session, (plain) => readEcho(plain)?.kind === "request", { timeoutMs: quietMs });
    if (!got) return came;
    came.push({ sequence: readEcho(got.plain)!.sequence, counter: got.counter });
  }
}

export const initiator: Check[] = [
  {
    id: "initiator.form",
    title: "begins with 148 bytes of type 1 that name its static key, sealed for us",
    source: "whitepaper §5.4.2",
    needs: ["inner"],
    async run(trial) {
      const { received } = await trial.provoke();
      must(readLe32(received.bytes, 0) === 1, `type and reserved bytes ${received.bytes.slice(0, 4).join(" ")}`);
      must(
        received.bytes.slice(-16).every((byte) => byte === 0),
        "mac2 is not zero without a cookie",
      );
    },
  },
  {
    id: "initiator.timestamp",
    title: "stamps with TAI64N of now, no finer than 2²⁴ ns",
    source: "whitepaper §5.1; Linux noise.c tai64n_now",
    needs: ["inner"],
    async run(trial) {
      const { timestamp } = await trial.provoke();
      const view = new DataView(timestamp.buffer, timestamp.byteOffset);
      const sec = Number(view.getBigUint64(0) - 2n ** 62n) - 10;
      must(Math.abs(sec - Date.now() / 1000) < 3600, `the stamp is of ${new Date(sec * 1000).toISOString()}`);
      const ns = view.getUint32(8);
      must(ns < 1e9, `${ns} nanoseconds`);
      must(ns % 2 ** 24 === 0, `${ns} ns tells when to ${ns & -ns} ns`);
    },
  },
  {
    id: "initiator.retransmits",
    title: "begins again 5 s (and at most 333 ms) after an initiation without answer",
    source: "whitepaper §6.1, §6.4",
    needs: ["inner"],
    seconds: 7,
    async run(trial) {
      const first = await trial.provoke();
      const second = await trial.offer(8000);
      must(second, "not in 8 s");
      const ms = second.received.at - first.received.at;
      mustBeWithin("again", ms, REKEY_TIMEOUT, REKEY_TIMEOUT + JITTER_MAX);
      must(!equal(first.ephemeral, second.ephemeral), "with the same ephemeral key");
      must(hex(second.timestamp) > hex(first.timestamp), "with a timestamp that is not later");
      return `after ${seconds(ms)}`;
    },
  },
  {
    id: "initiator.patient",
    title: "begins no second handshake within 5 s, however many packets wait",
    source: "whitepaper §6.4",
    needs: ["system", "inner"],
    seconds: 6,
    async run(trial) {
      await trial.provoke();
      for (let i = 0; i < 4; i++) {
        void trial.system.ping(trial.inner().ours, { count: 3 });
        must(!(await trial.offer(1050)), "another initiation");
      }
    },
  },
  {
    id: "initiator.superseded",
    title: "takes no response to an initiation that it has replaced",
    source: "whitepaper §5.4.2; Linux noise.c",
    needs: ["inner"],
    seconds: 8,
    async run(trial) {
      const first = await trial.provoke();
      const second = await trial.offer(8000);
      must(second, "no second initiation in 8 s");
      const late = trial.respond(first);
      await trial.send(late.message);
      must(!(await trial.data(late.session, undefined, { timeoutMs: SILENCE_MS })), "it is taken");
      await trial.accept(second);
    },
  },
  {
    id: "initiator.confirms",
    title: "sends the first packet at once, with counter 0, when it has a response",
    source: "whitepaper §5.4.5, §6.3",
    needs: ["inner"],
    async run(trial) {
      const offer = await trial.provoke();
      const { message, session } = trial.respond(offer);
      await trial.send(message);
      const got = await trial.data(session);
      must(got, "nothing comes");
      must(got.counter === 0n, `counter ${got.counter}`);
      return `after ${Math.round(got.received.at - session.born)} ms`;
    },
  },
  {
    id: "initiator.keepalive-first",
    title: "confirms by an empty packet when nothing waits",
    source: "whitepaper §5.4.6; Linux receive.c",
    needs: ["uapi"],
    async run(trial) {
      await trial.configure("persistent_keepalive_interval=60");
      const offer = await trial.offer();
      must(offer, "a persistent keepalive begins no handshake");
      const { message, session } = trial.respond(offer);
      await trial.send(message);
      const got = await trial.data(session);
      must(got, "nothing comes");
      must(got.plain.length === 0 && got.received.bytes.length === 32, `${got.received.bytes.length} bytes come first`);
    },
  },
  {
    id: "answer.length",
    title: "takes no response of another length than 92",
    source: "whitepaper §5.4.3",
    needs: ["inner"],
    run: (trial) =>
      refused(trial, [
        ["a response of 91 bytes", spoilt(trial, (message) => message.slice(0, 91))],
        // mac1 and mac2 are the last fields wherever the end is
        ["a response of 93 bytes", spoilt(trial, (message) => remac(trial, concat(message, Uint8Array.of(0))))],
        ["a response of 124 bytes", spoilt(trial, (message) => remac(trial, concat(message, new Uint8Array(32))))],
        ["a response of 60 bytes", spoilt(trial, (message) => message.slice(0, 60))],
      ]),
  },
  {
    id: "answer.reserved",
    title: "takes no response whose reserved bytes are not zero",
    source: "whitepaper §5.4.3",
    needs: ["inner"],
    run: (trial) =>
      refused(
        trial,
        [1, 2, 3].map((at) => [`reserved byte ${at}`, spoilt(trial, (message) => remac(trial, flipped(message, at)))]),
      ),
  },
  {
    id: "answer.mac1",
    title: "takes no response whose mac1 is wrong",
    source: "whitepaper §5.4.4",
    needs: ["inner"],
    run: (trial) =>
      refused(trial, [
        ["mac1 with a wrong bit", spoilt(trial, (message) => flipped(message, 60))],
        ["mac1 for another key", spoilt(trial, (message) => withMacs(message.slice(0, 60), trial.publicKey))],
      ]),
  },
  {
    id: "answer.receiver",
    title: "takes no response to an index that is not of its initiation",
    source: "whitepaper §5.4.3",
    needs: ["inner"],
    run: (trial) => refused(trial, [["another index", spoilt(trial, (message) => remac(trial, flipped(message, 8)))]]),
  },
  {
    id: "answer.sealed",
    title: "takes no response whose ephemeral key, index or tag was changed",
    source: "whitepaper §5.4.3",
    needs: ["inner"],
    run: (trial) =>
      refused(
        trial,
        [12, 43, 44, 59].map((at) => [
          `byte ${at} changed`,
          spoilt(trial, (message) => remac(trial, flipped(message, at))),
        ]),
      ),
  },
  {
    id: "answer.low-order",
    title: "takes no response with an ephemeral key of low order",
    source: "RFC 7748 §6.1; Linux noise.c",
    needs: ["inner"],
    run: (trial) =>
      refused(
        trial,
        LOW_ORDER.map((point, i) => [`low-order point ${i}`, (offer) => forged(trial, offer, point)]),
      ),
  },
  {
    id: "answer.psk",
    title: "takes no response made with another preshared key than its own",
    source: "whitepaper §5.2",
    needs: ["uapi", "inner"],
    async run(trial) {
      trial.psk = random(32);
      await trial.configure(`preshared_key=${hex(trial.psk)}`);
      await refused(trial, [
        ["a response without the preshared key", (offer) => trial.respond(offer, { psk: NO_PSK })],
        ["a response with another preshared key", (offer) => trial.respond(offer, { psk: random(32) })],
      ]);
    },
  },
  {
    id: "answer.responder",
    title: "takes no response of somebody who has not the responder's private key",
    source: "whitepaper §5.4.3",
    needs: ["inner"],
    run: (trial) =>
      refused(trial, [
        [
          "a response without the se token's key",
          (offer) => {
            // Whoever could read the initiation still needs DH(S, E) of the response: here another key stands for S.
            const ephemeral = random(32);
            const state = offer.state.clone();
            const E = DH_PUBLIC(ephemeral);
            state.mixKey(E);
            state.mixHash(E);
            state.mixDh(DH(ephemeral, offer.ephemeral));
            state.mixDh(DH(ephemeral, DH_PUBLIC(random(32))));
            const sender = randomIndex();
            const body = concat(E, state.seal(state.mixPsk(trial.psk), KEEPALIVE));
            const [receiving, sending] = state.split();
            const message = withMacs(responseMessage(sender, offer.sender, body), trial.target.publicKey);
            return { message, session: new Session(sender, offer.sender, sending, receiving) };
          },
        ],
      ]),
  },
  {
    id: "answer.twice",
    title: "takes a response once: the same again changes nothing",
    source: "whitepaper §5.4.3; Linux noise.c",
    needs: ["inner"],
    async run(trial) {
      const offer = await trial.provoke();
      const { message, session } = trial.respond(offer);
      await trial.send(message);
      must(await trial.data(session), "a right response is not taken");
      await trial.send(message);
      const again = trial.respond(offer);
      await trial.send(again.message);
      const got = await trial.data(again.session, undefined, { timeoutMs: SILENCE_MS });
      must(!got, "a second response to the same initiation is taken");
      const reply = await trial.echo(session);
      must(reply, "the session is gone");
      must(reply.counter > 0n, "the session began anew: a counter is used twice");
    },
  },
  {
    id: "staged.order",
    title: "sends what waited for a handshake, all of it, in order",
    source: "whitepaper §6.4; Linux send.c",
    needs: ["system", "inner"],
    async run(trial) {
      const sent = trial.system.ping(trial.inner().ours, { count: 20 });
      const offer = await trial.offer();
      must(offer, "packets for us lead to no initiation");
      await sent;
      const { message, session } = trial.respond(offer);
      await trial.send(message);
      const came = await pings(trial, session);
      const order = came.map(({ sequence }) => sequence).join(" ");
      must(order === Array.from({ length: 20 }, (_, i) => i + 1).join(" "), `of 1 to 20 came ${order || "none"}`);
      must(
        came.every(({ counter }, i) => counter === BigInt(i)),
        `counters ${came.map(({ counter }) => counter).join(" ")}`,
      );
    },
  },
  {
    id: "staged.limit",
    title: "keeps the newest 128 packets for a handshake, and no more",
    source: "Linux queueing.h MAX_STAGED_PACKETS",
    needs: ["system", "inner"],
    async run(trial) {
      const count = STAGED_MAX + 60;
      const sent = trial.system.ping(trial.inner().ours, { count });
      const offer = await trial.offer();
      must(offer, "packets for us lead to no initiation");
      await sent;
      const { message, session } = trial.respond(offer);
      await trial.send(message);
      const came = await pings(trial, session);
      const last = came.at(-1)?.sequence;
      must(last === count, `the newest that came is ${last} of ${count}`);
      must(came.length <= STAGED_MAX + 1, `${came.length} came`);
      must(came.length >= STAGED_MAX - 1, `only ${came.length} came`);
      return `${came.length} of ${count}, the newest`;
    },
  },
  {
    id: "handshake.simultaneous",
    title: "answers our initiation while its own is under way, and the tunnel works",
    source: "whitepaper §5.4.1, §6.3",
    needs: ["inner"],
    async run(trial) {
      const offer = await trial.provoke();
      const session = await trial.handshake();
      must(await trial.echo(session), "data under the session that we began is not taken");
      // Its own handshake was given up for ours, or goes on: either way there has to be a session that works.
      const { message, session: theirs } = trial.respond(offer);
      await trial.send(message);
      const first = await trial.data(theirs, undefined, { timeoutMs: SILENCE_MS });
      must(await trial.echo(first ? theirs : session), "no session works after both");
      return first ? "both handshakes complete" : "ours takes the place of its own";
    },
  },
];
