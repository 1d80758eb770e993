// Where a peer sends to: the source of the newest authentic packet, and nothing else moves it.

import { type Check, must, sleep } from "../check.ts";
import { readEcho } from "../inner.ts";
import type { Bytes } from "../noise.ts";
import type { Port } from "../port.ts";
import { KEEPALIVE, type Session } from "../session.ts";
import { type Trial, random, type } from "../trial.ts";
import { flipped } from "./common.ts";

/** Which port of ours the peer's next packet under the session comes to. */
async function destination(trial: Trial, session: Session): Promise<Port> {
  const request = (plain: Bytes): boolean => readEcho(plain)?.kind === "request";
  for (let it = await trial.data(session, request, { timeoutMs: 1 }); it; )
    it = await trial.data(session, request, { timeoutMs: 1 });
  void trial.system.ping(trial.inner().ours);
  const got = await trial.data(session, request);
  must(got, "the peer sends nothing");
  return got.received.port;
}

/** Sends what must not move the peer, from another port. */
async function stays(trial: Trial, session: Session, what: string, message: Bytes): Promise<void> {
  const other = await trial.openPort();
  await trial.send(message, other);
  await sleep(150);
  must((await destination(trial, session)) !== other, `${what} from another port moves the endpoint there`);
}

export const roaming: Check[] = [
  {
    id: "roaming.data",
    title: "sends to where the newest data came from, another port or back",
    source: "whitepaper §2.1",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      const other = await trial.openPort();
      for (const port of [other, trial.port, other]) {
        const reply = await trial.echo(session, { from: port });
        must(reply, "an echo request is not answered");
        must(reply.received.port === port, "the answer goes to another port than the question came from");
      }
    },
  },
  {
    id: "roaming.address",
    title: "sends to where the newest data came from, another address",
    source: "whitepaper §2.1",
    needs: ["system", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      const other = await trial.openPort(trial.system.ourOther);
      const reply = await trial.echo(session, { from: other });
      must(reply, "an echo request from another address is not answered");
      must(reply.received.port === other, "the answer goes to the old address");
    },
  },
  {
    id: "roaming.keepalive",
    title: "follows an empty packet, too",
    source: "whitepaper §2.1",
    needs: ["system", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      const other = await trial.openPort();
      await trial.send(session.seal(KEEPALIVE), other);
      await sleep(150);
      must((await destination(trial, session)) === other, "it sends to the old port");
    },
  },
  {
    id: "roaming.initiation",
    title: "follows a right initiation",
    source: "whitepaper §2.1",
    needs: ["system", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      await sleep(50);
      const other = await trial.openPort();
      const { got } = await trial.begin({}, other);
      must(got, "the initiation is not answered");
      must(got.port === other, "the response goes to the old port");
      must((await destination(trial, session)) === other, "data goes to the old port");
    },
  },
  {
    id: "roaming.response",
    title: "follows a right response",
    source: "whitepaper §2.1",
    needs: ["inner"],
    async run(trial) {
      const offer = await trial.provoke();
      const other = await trial.openPort();
      const { message, session } = trial.respond(offer);
      await trial.send(message, other);
      const got = await trial.data(session);
      must(got, "the response is not taken");
      must(got.received.port === other, "data goes to the old port");
    },
  },
  {
    id: "roaming.forged",
    title: "stays when data from elsewhere is not authentic",
    source: "whitepaper §2.1",
    needs: ["system", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      await stays(trial, session, "data with a wrong tag", flipped(session.seal(KEEPALIVE), -1));
    },
  },
  {
    id: "roaming.replayed",
    title: "stays when data from elsewhere is a replay",
    source: "whitepaper §2.1, §5.4.6",
    needs: ["system", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      const message = session.seal(KEEPALIVE);
      await trial.send(message);
      await sleep(50);
      await stays(trial, session, "replayed data", message);
    },
  },
  {
    id: "roaming.replayed-initiation",
    title: "stays when an initiation from elsewhere is a replay, or forged",
    source: "whitepaper §2.1, §5.1",
    needs: ["system", "inner"],
    async run(trial) {
      const { made, got } = await trial.begin();
      must(got && type(got) === 2, "no answer");
      const session = trial.finish(made, got);
      await trial.send(session.seal(KEEPALIVE));
      await sleep(100);
      await stays(trial, session, "a replayed initiation", made.message);
      await stays(trial, session, "an initiation of an unknown key", trial.initiation({ priv: random(32) }).message);
    },
  },
];
