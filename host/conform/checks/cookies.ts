// Cookies, both sides: a peer under load that asks for proof of our address, and a peer that is asked for its own. Load
// is made of what anybody who knows the peer's public key can send: initiations with a right mac1, of unknown senders.

import { type Check, Unable, hex, must, mustBeWithin, seconds, sleep } from "../check.ts";
import { type Bytes, concat, cookieReply, mac2For, openCookie, readLe32, withMacs } from "../noise.ts";
import { Port, type Received } from "../port.ts";
import { type Initiation, type Trial, random, type } from "../trial.ts";
import { flipped, SILENCE_MS } from "./common.ts";

/** initiations at once; Linux is under load when 512 wait, wireguard-go when 128 do */
const BURST = 1500;
/** ms between two bursts: load is taken for past a second after the queue was last that long */
const BURST_EVERY_MS = 60;
/** bursts until a peer that asks for no cookie is taken for one that copes */
const BURST_MAX_COUNT = 60;

/** Keeps the peer under load while `work` runs. @throws Unable when it copes with all that we can send */
async function underLoad<T>(trial: Trial, work: () => Promise<T>): Promise<T> {
  let asked = false;
  let done = false;
  const port = await Port.open(trial.target.family, { put: ({ bytes }) => void (asked ||= bytes[0] === 3) });
  const { message } = trial.initiation({ priv: random(32) });
  const burst = Array<Bytes>(BURST).fill(message);
  const flood = async (): Promise<void> => {
    while (!done) {
      await port.sendAll(burst, trial.target.address);
      await sleep(BURST_EVERY_MS);
    }
  };
  try {
    for (let i = 0; !asked && i < BURST_MAX_COUNT; i++) {
      await port.sendAll(burst, trial.target.address);
      await sleep(20);
    }
    if (!asked) throw new Unable(`it asks for no cookie after ${BURST_MAX_COUNT * BURST} initiations`);
    const flooding = flood();
    return await work().finally(async () => {
      done = true;
      await flooding;
    });
  } finally {
    port.close();
    // Until the load is past, a right initiation is answered by a cookie reply.
    for (let i = 0; i < 40; i++) {
      await sleep(250);
      const { got } = await trial.begin();
      if (got && type(got) === 2) break;
    }
  }
}

/** Sends an initiation until something comes: under load, datagrams are lost. */
async function ask(trial: Trial, cookie?: Bytes, port = trial.port): Promise<{ made: Initiation; got: Received }> {
  for (let i = 0; i < 6; i++) {
    const { made, got } = await trial.begin({ cookie }, port);
    if (got) return { made, got };
  }
  must(false, "no answer under load");
}

/** Attempts to find the peer under load before and after something: on a busy machine, load comes and goes. */
const SURE_MAX_COUNT = 6;

/** Whether an initiation without mac2 is asked for a cookie now. */
const isLoaded = async (trial: Trial): Promise<boolean> => type((await ask(trial)).got) === 3;

/** Sends an initiation with this cookie. @throws Deviation when it is answered by a response though there is load */
async function mustNotProve(trial: Trial, what: string, cookie: Bytes, port?: Port): Promise<void> {
  for (let i = 0; i < SURE_MAX_COUNT; i++) {
    const before = await isLoaded(trial);
    if (type((await ask(trial, cookie, port)).got) === 3) return;
    must(!(before && (await isLoaded(trial))), `${what} is answered by a response`);
  }
  throw new Unable("the load does not last");
}

/** The cookie in the reply to an initiation. @throws Deviation when it is not one */
function cookieOf(trial: Trial, { made, got }: { made: Initiation; got: Received }): Bytes {
  must(type(got) === 3, `under load, an initiation without mac2 is answered by a message of type ${got.bytes[0]}`);
  must(got.bytes.length === 64, `a cookie reply of ${got.bytes.length} bytes`);
  must(readLe32(got.bytes, 4) === made.sender, "a cookie reply to another index");
  try {
    return openCookie(got.bytes, trial.target.publicKey, made.message.slice(116, 132));
  } catch {
    must(false, "a cookie reply that does not open with our mac1 and the peer's key");
  }
}

export const cookies: Check[] = [
  {
    id: "cookie.reply",
    title: "under load, answers an initiation without mac2 by a cookie reply that opens",
    source: "whitepaper §5.3, §5.4.7",
    alone: true,
    run: (trial) =>
      underLoad(trial, async () => {
        const first = cookieOf(trial, await ask(trial));
        const second = cookieOf(trial, await ask(trial));
        must(hex(first) === hex(second), "two replies within a second have different cookies");
      }),
  },
  {
    id: "cookie.accepted",
    title: "under load, answers an initiation with the right mac2",
    source: "whitepaper §5.4.4",
    alone: true,
    run: (trial) =>
      underLoad(trial, async () => {
        const cookie = cookieOf(trial, await ask(trial));
        for (let i = 0; i < 8; i++) {
          const { made, got } = await trial.begin({ cookie });
          // It may be lost, or refused by the limit of 20 a second.
          if (!got) continue;
          must(type(got) === 2, "it is answered by another cookie reply");
          return void trial.finish(made, got);
        }
        must(false, "it is not answered");
      }),
  },
  {
    id: "cookie.mac2",
    title: "under load, takes no wrong mac2 for proof",
    source: "whitepaper §5.4.4",
    alone: true,
    run: (trial) =>
      underLoad(trial, async () => {
        const cookie = cookieOf(trial, await ask(trial));
        for (const wrong of [flipped(cookie, 0), flipped(cookie, 15), new Uint8Array(16), random(16)]) {
          await mustNotProve(trial, "it", wrong);
        }
      }),
  },
  {
    id: "cookie.bound",
    title: "under load, takes a cookie only from the address and port that it was sent to",
    source: "whitepaper §5.3, §5.4.7",
    alone: true,
    run: (trial) =>
      underLoad(trial, async () => {
        const cookie = cookieOf(trial, await ask(trial));
        await mustNotProve(trial, "one from another port", cookie, await trial.openPort());
        if (!trial.target.system) return "another port; no other address here";
        const elsewhere = await trial.openPort(trial.system.ourOther, trial.port.number);
        await mustNotProve(trial, "one from another address", cookie, elsewhere);
        return "another port, another address";
      }),
  },
  {
    id: "cookie.mac1",
    title: "under load, is silent to a wrong mac1 all the same",
    source: "whitepaper §5.1, §5.3",
    alone: true,
    run: (trial) =>
      underLoad(trial, async () => {
        const made = Array.from({ length: 5 }, () => trial.initiation());
        for (const { message } of made) await trial.send(flipped(message, 116));
        await ask(trial);
        await sleep(SILENCE_MS);
        for (const each of made) must(!(await trial.answer(each, 1)), "it is answered");
      }),
  },
  {
    id: "cookie.limit",
    title: "under load, answers at most some 20 a second of one address, cookie or not",
    source: "Linux ratelimiter.c",
    needs: ["uapi"],
    alone: true,
    async run(trial) {
      const others = await Promise.all(Array.from({ length: 24 }, () => trial.another()));
      return underLoad(trial, async () => {
        const cookie = cookieOf(trial, await ask(trial));
        for (let i = 0; i < SURE_MAX_COUNT; i++) {
          await sleep(500); // whatever was used is there again
          const before = await isLoaded(trial);
          // All from the one port that the cookie is for.
          const made = others.map((other) => other.initiation({ cookie }));
          const start = performance.now();
          await trial.port.sendAll(
            made.map(({ message }) => message),
            trial.target.address,
          );
          await sleep(400);
          const senders = new Set(made.map(({ sender }) => sender));
          const got = trial.inbox.all((it) => type(it) === 2 && senders.has(readLe32(it.bytes, 8))).length;
          const ms = performance.now() - start;
          if (!before || !(await isLoaded(trial)) || got === 0) continue;
          must(got <= 6 + Math.ceil((20 * ms) / 1000), `${got} of 24 are answered in ${seconds(ms)}`);
          return `${got} of 24 at once`;
        }
        throw new Unable("the load does not last");
      });
    },
  },
  {
    id: "cookie.data",
    title: "under load, carries data of a session as before",
    source: "whitepaper §5.3",
    needs: ["inner"],
    alone: true,
    async run(trial) {
      const session = await trial.handshake();
      must(await trial.echo(session), "an echo request is not answered before");
      return underLoad(trial, async () => {
        let heard = 0;
        for (let i = 0; i < 20; i++) if (await trial.echo(session, { timeoutMs: 500 })) heard++;
        // Datagrams are lost in a full socket buffer, whoever reads it.
        must(heard >= 5, `${heard} of 20 echo requests are answered`);
        return `${heard} of 20 echoes`;
      });
    },
  },
  {
    id: "cookie.response",
    title: "under load, asks for a cookie for a response, too",
    source: "whitepaper §5.4.4",
    needs: ["system", "inner"],
    alone: true,
    async run(trial) {
      const offer = await trial.provoke();
      return underLoad(trial, async () => {
        const { message, session } = trial.respond(offer);
        for (let i = 0; i < 10; i++) {
          await trial.send(message);
          const got = await trial.inbox.next(
            (it) => session.owns(it) || (type(it) === 3 && readLe32(it.bytes, 4) === session.local),
            500,
          );
          if (!got) continue;
          must(type(got) === 3, "a response without mac2 is taken");
          const cookie = openCookie(got.bytes, trial.target.publicKey, message.slice(60, 76));
          for (let j = 0; j < 10; j++) {
            await trial.send(withMacs(message.slice(0, 60), trial.target.publicKey, cookie));
            if (await trial.data(session, undefined, { timeoutMs: 500 })) return;
          }
          must(false, "the response with the right mac2 is not taken");
        }
        must(false, "a response without mac2 is not answered");
      });
    },
  },
  {
    id: "cookie.forged",
    title: "takes no cookie from a reply that is forged, for another message, or cut",
    source: "whitepaper §5.4.7",
    needs: ["inner"],
    seconds: 7,
    async run(trial) {
      const first = await trial.provoke();
      const has = first.received.bytes.slice(-16).some((byte) => byte !== 0);
      if (has) throw new Unable("it still has a cookie of ours: it forgets it after 2 minutes");
      const mac1 = first.received.bytes.slice(116, 132);
      const right = cookieReply(first.sender, random(24), random(16), trial.publicKey, mac1);
      const forged = [
        flipped(right, -1),
        flipped(right, 8),
        flipped(right, 32),
        flipped(right, 1),
        flipped(right, 4),
        right.slice(0, 63),
        concat(right, Uint8Array.of(0)),
        cookieReply(first.sender, random(24), random(16), trial.target.publicKey, mac1),
        cookieReply(first.sender, random(24), random(16), trial.publicKey, random(16)),
      ];
      for (const message of forged) await trial.send(message);
      const second = await trial.offer(8000);
      must(second, "no initiation in 8 s");
      must(
        second.received.bytes.slice(-16).every((byte) => byte === 0),
        "its next initiation has a mac2",
      );
    },
  },
  {
    id: "cookie.used",
    title: "puts mac2 of a cookie we gave into its next initiation, and waits 5 s with it",
    source: "whitepaper §5.4.4, §6.6",
    needs: ["inner"],
    seconds: 7,
    async run(trial) {
      const first = await trial.provoke();
      const cookie = random(16);
      const mac1 = first.received.bytes.slice(116, 132);
      await trial.send(cookieReply(first.sender, random(24), cookie, trial.publicKey, mac1));
      const second = await trial.offer(8000);
      must(second, "no initiation in 8 s");
      const { bytes } = second.received;
      must(hex(bytes.slice(-16)) === hex(mac2For(bytes, cookie)), "its mac2 is not that of the cookie");
      mustBeWithin("again", second.received.at - first.received.at, 5000, 5334);
    },
  },
];
