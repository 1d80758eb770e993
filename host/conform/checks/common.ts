// What several groups of checks do: send what must not be answered, then what must, and look that only that was.

import { must, sleep } from "../check.ts";
import { echoPacket } from "../inner.ts";
import { type Bytes, readLe32 } from "../noise.ts";
import { flipped, type Session } from "../session.ts";
import { type Initiation, type Trial, type } from "../trial.ts";

export { flipped };

/** After a right message was answered, an answer to a wrong one before it would have come within that, ms. */
export const SILENCE_MS = 300;

/** Points of small order on Curve25519 and its twist, and the same not reduced. RFC 7748 §6.1, cr.yp.to/ecdh.html */
export const LOW_ORDER = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
  "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
].map((text) => Uint8Array.from(text.match(/../g)!, (byte) => Number.parseInt(byte, 16)));

/** The peer answers none of these initiations, and a right one after them. @param what  of each, for the message */
export async function unanswered(
  trial: Trial,
  made: { sender: number; message: Bytes; what: string }[],
): Promise<void> {
  for (const { message } of made) await trial.send(message);
  await trial.handshake();
  await sleep(SILENCE_MS);
  for (const { sender, what } of made) {
    const got = trial.inbox.all(
      (it) => [2, 3].includes(type(it)) && readLe32(it.bytes, type(it) === 2 ? 8 : 4) === sender,
    );
    must(got.length === 0, `${what} is answered by a message of type ${got[0]?.bytes[0]}`);
  }
}

/** Initiations that are wrong in one way each. */
export const spoilt = (trial: Trial, kinds: [what: string, spoil: (made: Initiation) => Bytes][]) =>
  kinds.map(([what, spoil]) => {
    const made = trial.initiation();
    return { sender: made.sender, message: spoil(made), what };
  });

/** The peer takes none of these data messages, and a right one after them. Each holds an echo request of its own. */
export async function unheard(
  trial: Trial,
  session: Session,
  kinds: [what: string, seal: (packet: Bytes) => Bytes][],
): Promise<void> {
  const requests = kinds.map(([what, seal]) => {
    const request = trial.request();
    return { what, request, message: seal(echoPacket(request)) };
  });
  for (const { message } of requests) await trial.send(message);
  must(await trial.echo(session), "an echo request after them is not answered");
  await sleep(SILENCE_MS);
  for (const { what, request } of requests) {
    must(!(await trial.reply(request, { timeoutMs: 1 })), `${what} is taken: its echo is answered`);
  }
}
