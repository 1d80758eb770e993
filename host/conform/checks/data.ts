// Transport data: what is taken, what is sent, and how far the window of counters reaches.

import { type Check, must, sleep } from "../check.ts";
import { type Echo, echoPacket, innerLength, readEcho } from "../inner.ts";
import { AEAD, type Bytes, concat, le32 } from "../noise.ts";
import { KEEPALIVE, type Session } from "../session.ts";
import { random, type Trial } from "../trial.ts";
import { flipped, SILENCE_MS, unheard } from "./common.ts";

/** §6.1 REJECT-AFTER-MESSAGES; Linux has 2^64 - 8130 */
const REJECT_AFTER_MESSAGES = 2n ** 64n - 2n ** 13n - 1n;
/** Linux messages.h COUNTER_WINDOW_SIZE, RFC 6479 */
const WINDOW = 8128n;

/** Which of these counters the peer takes, each with an echo request of its own. */
async function taken(trial: Trial, session: Session, counters: bigint[]): Promise<bigint[]> {
  const requests = counters.map((counter): [bigint, Echo] => [counter, trial.request()]);
  for (const [counter, request] of requests) await trial.send(session.seal(echoPacket(request), counter));
  await sleep(SILENCE_MS);
  const heard: bigint[] = [];
  for (const [counter, request] of requests) if (await trial.reply(request, { timeoutMs: 200 })) heard.push(counter);
  return heard;
}

/** A message whose plaintext is exactly this. */
function sealExact(session: Session, plain: Bytes): Bytes {
  const padded = session.seal(plain);
  const counter = session.counter - 1n;
  return concat(padded.slice(0, 16), AEAD(session.sendingKey, counter, plain, KEEPALIVE));
}

export const data: Check[] = [
  {
    id: "data.echo",
    title: "hands data to its system and sends the system's answer, IPv4 and IPv6",
    source: "whitepaper §2, §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const done: string[] = [];
      for (const family of [4, 6] as const) {
        if (!trial.has(family)) continue;
        const reply = await trial.echo(session, { family, size: 100 });
        must(reply, `an IPv${family} echo request is not answered`);
        must(readEcho(reply.plain)!.data.length === 100, "the echo is not whole");
        done.push(`IPv${family}`);
      }
      return done.join(", ");
    },
  },
  {
    id: "data.padding",
    title: "pads with zeros to a multiple of 16, and no further",
    source: "whitepaper §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      for (let size = 0; size <= 33; size++) {
        const reply = await trial.echo(session, { size });
        must(reply, `an echo of ${size} bytes is not answered`);
        const length = innerLength(reply.plain);
        must(reply.plain.length === Math.ceil(length / 16) * 16, `${length} bytes are padded to ${reply.plain.length}`);
        must(
          reply.plain.slice(length).every((byte) => byte === 0),
          `${length} bytes are padded with something else`,
        );
      }
    },
  },
  {
    id: "data.padding-mtu",
    title: "pads a full packet no further than the MTU",
    source: "Linux send.c calculate_skb_padding",
    needs: ["system", "inner"],
    async run(trial) {
      const { mtu } = trial.system;
      const session = await trial.handshake();
      const reply = await trial.echo(session, { family: 4, size: mtu - 28 });
      must(reply, `an echo of ${mtu} bytes is not answered`);
      must(reply.plain.length === mtu, `${mtu} bytes are padded to ${reply.plain.length}`);
    },
  },
  {
    id: "data.reserved",
    title: "takes no data whose reserved bytes are not zero",
    source: "whitepaper §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      await unheard(
        trial,
        session,
        [1, 2, 3].map((at) => [`reserved byte ${at}`, (packet) => flipped(session.seal(packet), at)]),
      );
    },
  },
  {
    id: "data.receiver",
    title: "takes no data for an index that it has not given",
    source: "whitepaper §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      await unheard(trial, session, [
        ["another index", (packet) => flipped(session.seal(packet), 4)],
        [
          "our own index",
          (packet) => concat(Uint8Array.of(4, 0, 0, 0), le32(session.local), session.seal(packet).slice(8)),
        ],
      ]);
    },
  },
  {
    id: "data.short",
    title: "takes no data of less than 32 bytes, and is well after it",
    source: "whitepaper §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const whole = session.seal(KEEPALIVE);
      for (let length = 0; length < 32; length++) await trial.send(whole.slice(0, length));
      must(await trial.echo(session), "an echo request after them is not answered");
    },
  },
  {
    id: "data.tag",
    title: "takes no data with a bit changed in header, ciphertext or tag",
    source: "whitepaper §5.4.6; RFC 8439 §2.8",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      await unheard(
        trial,
        session,
        [8, 15, 16, 40, -16, -1].map((at) => [`byte ${at} changed`, (packet) => flipped(session.seal(packet), at)]),
      );
    },
  },
  {
    id: "data.tag-first",
    title: "moves the window for authentic packets alone: a forged counter uses up nothing",
    source: "whitepaper §5.4.6; RFC 6479",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const request = trial.request();
      const right = session.seal(echoPacket(request), 5n);
      await trial.send(flipped(right, -1));
      await trial.send(flipped(session.seal(KEEPALIVE, 1_000_000n), -1));
      await trial.send(right);
      must(await trial.reply(request), "the true packet of that counter is not taken");
    },
  },
  {
    id: "data.key",
    title: "takes no data under another session's key, or one of nobody",
    source: "whitepaper §5.4.5",
    needs: ["inner"],
    async run(trial) {
      const before = await trial.handshake();
      const session = await trial.handshake();
      const header = (): Bytes => session.seal(KEEPALIVE).slice(0, 16);
      const under = (key: Bytes, packet: Bytes): Bytes =>
        concat(header(), AEAD(key, session.counter - 1n, packet, KEEPALIVE));
      await unheard(trial, session, [
        ["the session before's key", (packet) => under(before.sendingKey, packet)],
        ["the key of the other direction", (packet) => under(session.receivingKey, packet)],
        ["a key of zeros", (packet) => under(new Uint8Array(32), packet)],
      ]);
    },
  },
  {
    id: "data.previous",
    title: "takes data under the session before the present one, and not under older ones",
    source: "whitepaper §6.3; Linux noise.c",
    needs: ["inner"],
    async run(trial) {
      const oldest = await trial.handshake();
      const middle = await trial.handshake();
      must(await trial.echo(oldest), "data under the session before is not taken");
      await trial.handshake();
      must(await trial.echo(middle), "data under the session before is not taken, after another handshake");
      must(!(await trial.echo(oldest, { timeoutMs: SILENCE_MS * 2 })), "data under the session before that is taken");
    },
  },
  {
    id: "window.replay",
    title: "takes a packet once",
    source: "whitepaper §5.4.6; RFC 6479",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const request = trial.request();
      const message = session.seal(echoPacket(request));
      for (let i = 0; i < 3; i++) await trial.send(message);
      must(await trial.reply(request), "it is not taken at all");
      await sleep(SILENCE_MS);
      must(!(await trial.reply(request, { timeoutMs: 1 })), "it is taken again");
    },
  },
  {
    id: "window.inside",
    title: "takes packets up to 8128 behind the newest, in any order, once",
    source: "RFC 6479; Linux messages.h COUNTER_WINDOW_SIZE",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const newest = 20_000n;
      const back = [0n, 1n, 63n, 64n, 65n, 2000n, 7n, 4096n, 8000n, WINDOW];
      const counters = back.map((behind) => newest - behind);
      const heard = await taken(trial, session, counters);
      const missing = counters.filter((counter) => !heard.includes(counter)).map((counter) => newest - counter);
      must(missing.length === 0, `not taken: ${missing.join(", ")} behind the newest`);
      const again = await taken(trial, session, counters);
      must(again.length === 0, `taken again: ${again.map((counter) => newest - counter).join(", ")} behind the newest`);
    },
  },
  {
    id: "window.outside",
    title: "takes no packet more than 8128 behind the newest",
    source: "RFC 6479; Linux messages.h COUNTER_WINDOW_SIZE",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const newest = 20_000n;
      must((await taken(trial, session, [newest])).length === 1, "the newest is not taken");
      const heard = await taken(
        trial,
        session,
        [WINDOW + 1n, WINDOW + 64n, 8192n, 8193n, 16_384n].map((back) => newest - back),
      );
      must(heard.length === 0, `taken: ${heard.map((counter) => newest - counter).join(", ")} behind the newest`);
    },
  },
  {
    id: "window.leap",
    title: "forgets no seen counter when the counter leaps, and takes none for seen that was not",
    source: "RFC 6479 §3",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      // A bitmap of 8192 has the same bit for 1,000,000 and the one before the last.
      const [first, late, leap] = [1_000_000n, 1_000_000n + 8192n, 1_000_000n + 8192n + 70n];
      const seen = [10n, 100n, 8200n, 8201n, 16_000n, first, 1_000_064n, leap, late, 2n ** 40n];
      for (const counter of seen)
        must((await taken(trial, session, [counter])).length === 1, `counter ${counter} is not taken`);
      const again = await taken(trial, session, seen);
      must(again.length === 0, `taken again: ${again.join(", ")}`);
    },
  },
  {
    id: "window.limit",
    title: "takes counters below REJECT-AFTER-MESSAGES, none at or above it",
    source: "whitepaper §6.1, §6.2",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const above = [2n ** 64n - 1n, 2n ** 64n - 2n, 2n ** 64n - 8129n];
      const heard = await taken(trial, session, above);
      must(heard.length === 0, `taken: ${heard.map((counter) => `2^64 - ${2n ** 64n - counter}`).join(", ")}`);
      for (const counter of [1n, 2n ** 63n, REJECT_AFTER_MESSAGES - 1n]) {
        must((await taken(trial, session, [counter])).length === 1, `not taken: ${counter}`);
      }
    },
  },
  {
    id: "inner.source",
    title: "drops a packet whose inner source belongs to another peer",
    source: "whitepaper §2 (cryptokey routing)",
    needs: ["uapi", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      const other = await trial.another();
      await other.handshake();
      for (const family of [4, 6] as const) {
        // If the packet were let in, its answer would go where that source lives: to the other peer.
        const request = trial.request({ family, source: other.inner(family).ours });
        await trial.send(session.seal(echoPacket(request)));
        must(await trial.echo(session, { family }), "an echo request after it is not answered");
        const got = await other.reply(request, { timeoutMs: SILENCE_MS });
        must(!got, `an IPv${family} packet under a false source was let in`);
      }
    },
  },
  {
    id: "inner.lies",
    title: "drops inner packets that are no IP, or say that they are longer than they are",
    source: "Linux receive.c wg_packet_consume_data_done",
    needs: ["system", "inner"],
    alone: true,
    async run(trial) {
      const session = await trial.handshake();
      must(await trial.echo(session), "an echo request is not answered");
      const request = trial.request({ family: 4 });
      const v6 = trial.request({ family: 6 });
      const bad: [string, Bytes][] = [
        ["a total length beyond the end", echoPacket(request, 500)],
        ["a total length of less than a header", echoPacket(request, 19)],
        ["a total length of 0", echoPacket(request, 0)],
        ["an IPv6 payload length beyond the end", echoPacket(v6, 500)],
        ["an IPv4 header cut short", echoPacket(request).slice(0, 16)],
        ["an IPv6 header cut short", echoPacket(v6).slice(0, 32)],
        ...[0, 5, 7, 15].map((version): [string, Bytes] => [
          `IP version ${version}`,
          concat(Uint8Array.of((version << 4) | 5), echoPacket(request).slice(1)),
        ]),
      ];
      for (const [what, packet] of bad) {
        await sleep(30);
        const before = trial.system.delivered();
        await trial.send(sealExact(session, packet));
        await sleep(100);
        must(trial.system.delivered() === before, `${what}: handed to the system`);
      }
      must(await trial.echo(session), "an echo request after them is not answered");
    },
  },
  {
    id: "inner.trailing",
    title: "takes a packet with any bytes after its own length, and leaves them out",
    source: "whitepaper §5.4.6; Linux receive.c",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const request = trial.request({ size: 20 });
      await trial.send(sealExact(session, concat(echoPacket(request), random(77))));
      const reply = await trial.reply(request);
      must(reply, "it is not taken");
      must(readEcho(reply.plain)!.data.length === 20, "the bytes after it are taken for its own");
    },
  },
];
