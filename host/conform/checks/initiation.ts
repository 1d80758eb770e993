// Which initiations a peer answers.

import { type Check, must, sleep } from "../check.ts";
import { type Bytes, concat, DH, DH_PUBLIC, initiationMessage, readLe32, Symmetric, withMacs } from "../noise.ts";
import { random, randomIndex, type Initiation, type Trial, type } from "../trial.ts";
import { flipped, LOW_ORDER, SILENCE_MS, spoilt, unanswered } from "./common.ts";

/** §5.4.2 */
const SENDER = 4;
const EPHEMERAL = 8;
const STATIC = 40;
const TIMESTAMP = 88;
const MAC1 = 116;
const MAC2 = 132;

/** The same message with its last two fields right again. */
const remac = (trial: Trial, message: Bytes): Bytes => withMacs(message.slice(0, -32), trial.target.publicKey);

/** An initiation with any public ephemeral, and what the responder's DH with it gives. */
function forged(trial: Trial, E: Bytes, es: Bytes, ephemeral = random(32)): Initiation {
  const { priv, remote } = trial.end;
  const state = new Symmetric();
  state.mixHash(remote);
  state.mixKey(E);
  state.mixHash(E);
  const sealedStatic = state.seal(state.mixDh(es), trial.publicKey);
  const sealedStamp = state.seal(state.mixDh(DH(priv, remote)), trial.target.stamps.next());
  const sender = randomIndex();
  const message = withMacs(initiationMessage(sender, concat(E, sealedStatic, sealedStamp)), remote);
  return { message, sender, ephemeral, state, priv };
}

const answersInitiation = async (trial: Trial, made: Initiation, what: string): Promise<void> => {
  await trial.send(made.message);
  const got = await trial.answer(made);
  must(got && type(got) === 2, `${what} is not answered`);
  trial.finish(made, got);
};

export const initiation: Check[] = [
  {
    id: "initiation.answered",
    title: "answers a right initiation with a response that opens",
    source: "whitepaper §5.4.3",
    async run(trial) {
      const { made, got } = await trial.begin();
      must(got, "no answer");
      trial.finish(made, got);
    },
  },
  {
    id: "initiation.length",
    title: "is silent to an initiation of another length than 148",
    source: "whitepaper §5.4.2",
    run: (trial) =>
      unanswered(trial, [
        ...[1, 4, 8, 116, 132, 147].map((length) => {
          const { sender, message } = trial.initiation();
          return { sender, message: message.slice(0, length), what: `an initiation cut to ${length} bytes` };
        }),
        ...[1, 16, 300].map((more) => {
          const { sender, message } = trial.initiation();
          // mac1 and mac2 are the last fields wherever the end is
          const longer = withMacs(concat(message.slice(0, MAC1), random(more)), trial.target.publicKey);
          return { sender, message: longer, what: `an initiation of ${148 + more} bytes` };
        }),
      ]),
  },
  {
    id: "initiation.type",
    title: "is silent to message types other than 1 to 4",
    source: "whitepaper §5.4",
    run: (trial) =>
      unanswered(
        trial,
        spoilt(
          trial,
          [0, 5, 0x81, 0xff].map((value) => [
            `type ${value}`,
            ({ message }) => remac(trial, concat(Uint8Array.of(value), message.slice(1))),
          ]),
        ),
      ),
  },
  {
    id: "initiation.reserved",
    title: "is silent to an initiation whose reserved bytes are not zero",
    source: "whitepaper §5.4.2",
    run: (trial) =>
      unanswered(
        trial,
        spoilt(
          trial,
          [1, 2, 3].map((at) => [`reserved byte ${at}`, ({ message }) => remac(trial, flipped(message, at))]),
        ),
      ),
  },
  {
    id: "initiation.mac1",
    title: "is silent to an initiation whose mac1 is wrong in any bit tried",
    source: "whitepaper §5.1, §5.4.4",
    run: (trial) =>
      unanswered(
        trial,
        spoilt(trial, [
          ...[0, 7, 8, 15].map((at): [string, (made: Initiation) => Bytes] => [
            `mac1 with byte ${at} wrong`,
            ({ message }) => flipped(message, MAC1 + at),
          ]),
          ["mac1 of zeros", ({ message }) => concat(message.slice(0, MAC1), new Uint8Array(32))],
          ["mac1 that covers another sender index", ({ message }) => flipped(message, SENDER)],
        ]),
      ),
  },
  {
    id: "initiation.mac1-key",
    title: "is silent to an initiation whose mac1 is for another responder",
    source: "whitepaper §5.4.4",
    run: (trial) => {
      const made = trial.initiation({ mac1Key: DH_PUBLIC(random(32)) });
      return unanswered(trial, [{ ...made, what: "mac1 for another key" }]);
    },
  },
  {
    id: "initiation.mac2-idle",
    title: "answers an initiation with any mac2 while not under load",
    source: "whitepaper §5.3; Linux receive.c",
    async run(trial) {
      const made = trial.initiation();
      await answersInitiation(
        trial,
        { ...made, message: concat(made.message.slice(0, MAC2), random(16)) },
        "a random mac2",
      );
    },
  },
  {
    id: "initiation.responder",
    title: "is silent to a handshake made for another static key",
    source: "whitepaper §5.4.2",
    run: (trial) => {
      const made = trial.initiation({ responder: DH_PUBLIC(random(32)), mac1Key: trial.target.publicKey });
      return unanswered(trial, [{ ...made, what: "a handshake for another responder" }]);
    },
  },
  {
    id: "initiation.static-unknown",
    title: "is silent to an initiator whose static key it does not know",
    source: "whitepaper §5.1, §2",
    run: (trial) => unanswered(trial, [{ ...trial.initiation({ priv: random(32) }), what: "an unknown static key" }]),
  },
  {
    id: "initiation.static-sealed",
    title: "is silent when the sealed static key or its tag was changed",
    source: "whitepaper §5.4.2",
    run: (trial) =>
      unanswered(
        trial,
        spoilt(
          trial,
          [EPHEMERAL, STATIC, STATIC + 31, STATIC + 32, STATIC + 47].map((at) => [
            `byte ${at} changed`,
            ({ message }) => remac(trial, flipped(message, at)),
          ]),
        ),
      ),
  },
  {
    id: "initiation.timestamp-sealed",
    title: "is silent when the sealed timestamp or its tag was changed",
    source: "whitepaper §5.4.2",
    run: (trial) =>
      unanswered(
        trial,
        spoilt(
          trial,
          [TIMESTAMP, TIMESTAMP + 11, TIMESTAMP + 12, TIMESTAMP + 27].map((at) => [
            `byte ${at} changed`,
            ({ message }) => remac(trial, flipped(message, at)),
          ]),
        ),
      ),
  },
  {
    id: "initiation.ephemeral-low-order",
    title: "is silent to an ephemeral key of low order",
    source: "RFC 7748 §6.1; Linux noise.c",
    run: (trial) =>
      unanswered(
        trial,
        LOW_ORDER.map((point, i) => ({ ...forged(trial, point, new Uint8Array(32)), what: `low-order point ${i}` })),
      ),
  },
  {
    id: "initiation.ephemeral-high-bit",
    title: "takes an ephemeral key with its unused top bit set for the same point",
    source: "RFC 7748 §5",
    async run(trial) {
      const ephemeral = random(32);
      const E = DH_PUBLIC(ephemeral);
      E[31] |= 0x80;
      await answersInitiation(trial, forged(trial, E, DH(ephemeral, trial.end.remote), ephemeral), "such a key");
    },
  },
  {
    id: "initiation.replayed",
    title: "is silent to an initiation that it has answered before",
    source: "whitepaper §5.1",
    async run(trial) {
      const { made, got } = await trial.begin();
      must(got, "no answer to the first");
      await sleep(100); // past the limit of 50 a second
      await unanswered(trial, [{ ...made, what: "a replayed initiation" }]);
    },
  },
  {
    id: "initiation.timestamp-older",
    title: "is silent to a timestamp that is not later than the last, to the nanosecond",
    source: "whitepaper §5.1, §5.4.2",
    async run(trial) {
      const { stamps } = trial.target;
      const now = BigInt(Date.now()) * 1_000_000n + 500n;
      must((await trial.begin({ timestamp: stamps.at(now) })).got, "no answer to the first");
      await sleep(100);
      const wrong = [0n, 1n, 1_000_000_000n, now].map((back) => ({
        ...trial.initiation({ timestamp: stamps.at(now - back) }),
        what: `a timestamp ${back} ns before the last`,
      }));
      await unanswered(trial, wrong);
    },
  },
  {
    id: "initiation.timestamp-compare",
    title: "only compares timestamps: an initiator whose clock is at 1970 is answered",
    source: "whitepaper §5.1",
    needs: ["uapi"],
    async run(trial) {
      const { got } = await trial.begin({ timestamp: trial.target.stamps.at(1n) });
      must(got && type(got) === 2, "a first initiation with a stamp of 1970 is not answered");
    },
  },
  {
    id: "initiation.rate",
    title: "answers less than all of 10 initiations that one initiator sends at once",
    source: "Linux messages.h INITIATIONS_PER_SECOND 50",
    async run(trial) {
      const made = Array.from({ length: 10 }, () => trial.initiation());
      await trial.port.sendAll(
        made.map(({ message }) => message),
        trial.target.address,
      );
      await sleep(SILENCE_MS);
      const got = trial.inbox.all((it) => type(it) === 2).length;
      must(got >= 1 && got < 10, `${got} of 10 were answered`);
      return `${got} of 10 answered`;
    },
  },
  {
    id: "initiation.sender-reused",
    title: "answers initiations that bear a sender index used before, also 0 and 2³²-1",
    source: "whitepaper §5.4.2",
    async run(trial) {
      for (const sender of [0, 0, 0xffffffff, 0xffffffff]) await trial.handshake({ sender });
    },
  },
  {
    id: "initiation.unfinished",
    title: "keeps the session in use when a new handshake is begun and not finished",
    source: "whitepaper §6.3; Linux noise.c",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      must(await trial.echo(session), "no echo before");
      await trial.handshake({ confirm: false });
      const reply = await trial.echo(session);
      must(reply, "the session in use is gone");
      must(session.owns(reply.received), "its answer comes under the session that is not confirmed");
    },
  },
  {
    id: "initiation.superseded",
    title: "forgets a session never confirmed when the next handshake takes its place",
    source: "Linux noise.c add_new_keypair",
    needs: ["inner"],
    async run(trial) {
      const first = await trial.handshake({ confirm: false });
      const second = await trial.handshake({ confirm: false });
      const request = await trial.echo(first, { timeoutMs: SILENCE_MS * 2 });
      must(!request, "data under the first is taken");
      must(await trial.echo(second), "data under the second is not taken");
    },
  },
  {
    id: "initiation.reflected",
    title: "is silent to its own messages sent back to it",
    source: "whitepaper §5.1",
    needs: ["system"],
    async run(trial) {
      const offer = await trial.provoke();
      await trial.send(offer.received.bytes);
      await sleep(SILENCE_MS);
      const got = trial.inbox.all(
        (it) => [2, 3].includes(type(it)) && readLe32(it.bytes, type(it) === 2 ? 8 : 4) === offer.sender,
      );
      must(got.length === 0, "it answers its own initiation");
      must(await trial.accept(offer), "and its handshake is gone");
    },
  },
];
