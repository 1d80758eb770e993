// When a peer speaks by itself. §6 in real time: nothing here can make a peer's clock run faster.

import { type Check, must, mustBeWithin, seconds, sleep } from "../check.ts";
import { echoPacket, readEcho } from "../inner.ts";
import type { Bytes } from "../noise.ts";
import type { Received } from "../port.ts";
import { KEEPALIVE, type Session } from "../session.ts";
import type { Trial } from "../trial.ts";

/** §6.1, ms */
const KEEPALIVE_TIMEOUT = 10_000;
const REKEY_TIMEOUT = 5000;
const JITTER_MAX = 334;
const REKEY_ATTEMPT_TIME = 90_000;

const empty = (plain: Bytes): boolean => plain.length === 0;
const full = (plain: Bytes): boolean => plain.length > 0;
const isInitiation = ({ bytes }: Received): boolean => bytes[0] === 1 && bytes.length >= 100;

/** Data that no system answers: an echo reply that nobody asked for. */
function unaskedReply(trial: Trial): Bytes {
  return echoPacket({ ...trial.request(), kind: "reply" });
}

/** Waits until the session is that old. */
const age = (session: Session, ms: number): Promise<void> => sleep(Math.max(0, session.born + ms - performance.now()));

/** A session that the peer began. */
async function begunByPeer(trial: Trial): Promise<Session> {
  const offer = await trial.provoke();
  const session = await trial.accept(offer);
  // So that its timer for silence after data is at rest.
  await sleep(100);
  await trial.send(session.seal(KEEPALIVE));
  return session;
}

export const timers: Check[] = [
  {
    id: "timers.passive-keepalive",
    title: "sends an empty packet of 32 bytes 10 s after data that it had nothing to answer to",
    source: "whitepaper §6.5",
    needs: ["inner"],
    seconds: 11,
    async run(trial) {
      const session = await trial.handshake();
      const start = performance.now();
      await trial.send(session.seal(unaskedReply(trial)));
      const got = await trial.data(session, undefined, { timeoutMs: 13_000 });
      must(got, "nothing in 13 s");
      must(got.plain.length === 0, `${got.plain.length} bytes instead`);
      must(got.received.bytes.length === 32, `${got.received.bytes.length} bytes`);
      mustBeWithin("it", got.received.at - start, KEEPALIVE_TIMEOUT, KEEPALIVE_TIMEOUT);
      return `after ${seconds(got.received.at - start)}`;
    },
  },
  {
    id: "timers.keepalive-unanswered",
    title: "answers an empty packet with nothing",
    source: "whitepaper §6.5",
    seconds: 12,
    async run(trial) {
      const session = await trial.handshake();
      await trial.send(session.seal(KEEPALIVE));
      const got = await trial.data(session, undefined, { timeoutMs: 12_000 });
      must(!got, `${got?.received.bytes.length} bytes come`);
    },
  },
  {
    id: "timers.keepalive-spared",
    title: "sends no empty packet when data went back",
    source: "whitepaper §6.5",
    needs: ["inner"],
    seconds: 12,
    async run(trial) {
      const session = await trial.handshake();
      must(await trial.echo(session), "an echo request is not answered");
      await sleep(100);
      await trial.send(session.seal(KEEPALIVE));
      must(!(await trial.data(session, empty, { timeoutMs: 12_000 })), "it comes, though the echo's answer went back");
    },
  },
  {
    id: "timers.persistent",
    title: "sends an empty packet at every persistent keepalive interval",
    source: "wg(8) PersistentKeepalive; Linux timers.c",
    needs: ["uapi"],
    seconds: 8,
    async run(trial) {
      const session = await trial.handshake();
      await trial.configure("persistent_keepalive_interval=2");
      const times: number[] = [];
      while (times.length < 4) {
        const got = await trial.data(session, empty, { timeoutMs: 4000 });
        must(got, `${times.length} come, then none in 4 s`);
        times.push(got.received.at);
      }
      const gaps = times
        .slice(1)
        .map((at, i) => at - times[i])
        .slice(1);
      for (const gap of gaps) mustBeWithin("the next", gap, 2000, 2000);
      return `every ${gaps.map(seconds).join(", ")}`;
    },
  },
  {
    id: "timers.persistent-begins",
    title: "begins a handshake by itself when a persistent keepalive is set",
    source: "wg(8) PersistentKeepalive; Linux netlink.c",
    needs: ["uapi"],
    async run(trial) {
      await trial.configure("persistent_keepalive_interval=25");
      must(await trial.offer(), "no initiation");
    },
  },
  {
    id: "timers.silence",
    title: "begins a handshake 15 s after data that nothing authentic answered",
    source: "whitepaper §6.5; Linux timers.c",
    needs: ["inner"],
    seconds: 16,
    async run(trial) {
      const session = await trial.handshake();
      const reply = await trial.echo(session);
      must(reply, "an echo request is not answered");
      const offer = await trial.offer(18_000);
      must(offer, "not in 18 s");
      const ms = offer.received.at - reply.received.at;
      mustBeWithin("it", ms, KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + JITTER_MAX);
      return `after ${seconds(ms)}`;
    },
  },
  {
    id: "timers.quiet",
    title: "says nothing at all on an idle session",
    source: "whitepaper §5.1, §6.5",
    seconds: 17,
    async run(trial) {
      const session = await trial.handshake();
      const got = await trial.inbox.next((it) => it.bytes.length >= 32, 17_000);
      must(!got, `${got?.bytes.length} bytes of type ${got?.bytes[0]} after ${seconds((got?.at ?? 0) - session.born)}`);
    },
  },
  {
    id: "timers.gives-up",
    title: "begins again every 5 s for 90 s, then gives up",
    source: "whitepaper §6.1, §6.4",
    needs: ["system", "inner"],
    slow: true,
    seconds: 125,
    async run(trial) {
      const first = await trial.provoke();
      const times = [first.received.at];
      for (let offer = await trial.offer(20_000); offer && times.length < 40; offer = await trial.offer(20_000)) {
        times.push(offer.received.at);
      }
      const last = times.at(-1)! - times[0];
      const gaps = times.slice(1).map((at, i) => at - times[i]);
      for (const gap of gaps) mustBeWithin("again", gap, REKEY_TIMEOUT, REKEY_TIMEOUT + JITTER_MAX);
      const all = `${times.length} initiations in ${seconds(last)}`;
      must(last >= REKEY_ATTEMPT_TIME - REKEY_TIMEOUT - 1000, all);
      must(last <= REKEY_ATTEMPT_TIME + 3 * (REKEY_TIMEOUT + JITTER_MAX), all);
      return all;
    },
  },
  {
    id: "timers.rekey-sending",
    title: "the initiator begins anew when it sends data 120 s after the handshake, not before",
    source: "whitepaper §6.1, §6.3",
    needs: ["system", "inner"],
    slow: true,
    seconds: 123,
    async run(trial) {
      const session = await begunByPeer(trial);
      await age(session, 117_000);
      void trial.system.ping(trial.inner().ours);
      must(await trial.data(session, full), "the peer sends nothing at 117 s");
      await trial.send(session.seal(KEEPALIVE));
      must(!(await trial.offer(500)), "it begins at 117 s");
      await age(session, 121_000);
      void trial.system.ping(trial.inner().ours);
      must(await trial.data(session, full), "the peer sends nothing at 121 s");
      must(await trial.offer(1000), "it begins nothing at 121 s");
    },
  },
  {
    id: "timers.rekey-responder",
    title: "the responder begins nothing because of age alone while it may still send",
    source: "whitepaper §6.3",
    needs: ["inner"],
    slow: true,
    seconds: 140,
    async run(trial) {
      const session = await trial.handshake();
      for (const ms of [121_000, 135_000]) {
        await age(session, ms);
        must(await trial.echo(session), `an echo request is not answered at ${ms / 1000} s`);
        await trial.send(session.seal(KEEPALIVE));
        const got = await trial.inbox.next(isInitiation, 3000);
        must(!got, `it begins a handshake at ${ms / 1000} s`);
      }
    },
  },
  {
    id: "timers.rekey-receiving",
    title: "the initiator begins anew when it receives data 165 s after the handshake",
    source: "whitepaper §6.3; Linux receive.c keep_key_fresh",
    needs: ["system", "inner"],
    slow: true,
    seconds: 168,
    async run(trial) {
      const session = await begunByPeer(trial);
      await age(session, 162_000);
      await trial.send(session.seal(KEEPALIVE));
      must(!(await trial.offer(1000)), "it begins at 162 s");
      await age(session, 166_000);
      await trial.send(session.seal(KEEPALIVE));
      must(await trial.offer(1000), "it begins nothing at 166 s");
    },
  },
  {
    id: "timers.reject-receiving",
    title: "takes data of a session for 180 s, and none after that",
    source: "whitepaper §6.1, §6.2",
    needs: ["inner"],
    slow: true,
    seconds: 183,
    async run(trial) {
      const session = await trial.handshake();
      await age(session, 178_000);
      must(await trial.echo(session), "an echo request is not answered at 178 s");
      await trial.send(session.seal(KEEPALIVE));
      await age(session, 181_000);
      must(!(await trial.echo(session, { timeoutMs: 1000 })), "it is answered at 181 s");
      await trial.handshake();
    },
  },
  {
    id: "timers.reject-sending",
    title: "sends nothing under a session older than 180 s, and begins a new one for it",
    source: "whitepaper §6.2",
    needs: ["system", "inner"],
    slow: true,
    seconds: 183,
    async run(trial) {
      const session = await trial.handshake();
      await age(session, 181_000);
      void trial.system.ping(trial.inner().ours);
      const offer = await trial.offer();
      must(offer, "no initiation");
      must(!(await trial.data(session, full, { timeoutMs: 1 })), "data under the old session");
      const next = await trial.accept(offer);
      must(next, "no new session");
    },
  },
  {
    id: "timers.keepalive-repeats",
    title: "sends another empty packet 10 s later when data went on coming meanwhile",
    source: "whitepaper §6.5; Linux timers.c need_another_keepalive",
    needs: ["inner"],
    seconds: 22,
    async run(trial) {
      const session = await trial.handshake();
      const start = performance.now();
      for (const ms of [0, 4000, 8000]) {
        await sleep(start + ms - performance.now());
        await trial.send(session.seal(unaskedReply(trial)));
      }
      const times: number[] = [];
      for (const limit of [13_000, 23_000]) {
        const left = start + limit - performance.now();
        const got = await trial.data(session, (plain) => readEcho(plain) === null, { timeoutMs: left });
        must(got, `no packet ${times.length + 1} within ${limit / 1000} s`);
        times.push(got.received.at - start);
      }
      mustBeWithin("the first", times[0], KEEPALIVE_TIMEOUT, KEEPALIVE_TIMEOUT);
      mustBeWithin("the second", times[1], 2 * KEEPALIVE_TIMEOUT, 2 * KEEPALIVE_TIMEOUT);
      return times.map(seconds).join(", ");
    },
  },
];
