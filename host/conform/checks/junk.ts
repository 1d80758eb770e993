// What anybody on the network can throw at a peer.

import { type Check, must, sleep } from "../check.ts";
import { type Bytes, concat, le32 } from "../noise.ts";
import { random, type } from "../trial.ts";
import { SILENCE_MS } from "./common.ts";

/** Random datagrams, many of them with the type, length or index of a true one. */
function junk(count: number, indices: number[]): Bytes[] {
  const lengths = [0, 1, 3, 4, 8, 15, 16, 31, 32, 33, 48, 64, 91, 92, 93, 147, 148, 149, 500, 1400];
  return Array.from({ length: count }, (_, i) => {
    const bytes = random(lengths[i % lengths.length]);
    if (i % 3 === 0 || bytes.length < 12) return bytes;
    const index = le32(indices[i % indices.length]);
    const head = concat(Uint8Array.of(1 + (i % 4), 0, 0, 0), index, i % 2 ? index : random(4));
    return concat(head, bytes.slice(12));
  });
}

export const junkChecks: Check[] = [
  {
    id: "junk.idle",
    title: "is silent to random datagrams of every type and length",
    source: "whitepaper §5.1",
    async run(trial) {
      const session = await trial.handshake();
      const port = await trial.openPort();
      await port.sendAll(junk(600, [session.remote, session.local, 0]), trial.target.address);
      await sleep(SILENCE_MS);
      const got = trial.inbox.all((it) => it.port === port);
      must(got.length === 0, `${got.length} answers, the first of type ${got[0]?.bytes[0]}`);
      await trial.handshake();
    },
  },
  {
    id: "junk.session",
    title: "keeps its session through random datagrams from the other end's address",
    source: "whitepaper §5.1, §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      await trial.port.sendAll(junk(600, [session.remote]), trial.target.address);
      must(await trial.echo(session), "an echo request after them is not answered");
    },
  },
  {
    id: "junk.handshake",
    title: "completes its handshake through random messages with its index",
    source: "whitepaper §5.1, §5.4.3",
    needs: ["inner"],
    async run(trial) {
      const offer = await trial.provoke();
      await trial.port.sendAll(junk(600, [offer.sender]), trial.target.address);
      await trial.accept(offer);
    },
  },
  {
    id: "junk.cookie",
    title: "is silent to cookie replies that it has not asked for",
    source: "whitepaper §5.4.7",
    async run(trial) {
      const session = await trial.handshake();
      const port = await trial.openPort();
      for (const index of [session.remote, session.local, 0]) {
        await trial.send(concat(Uint8Array.of(3, 0, 0, 0), le32(index), random(56)), port);
      }
      await sleep(SILENCE_MS);
      must(trial.inbox.all((it) => it.port === port || type(it) === 3).length === 0, "an answer");
    },
  },
];
