// What a peer's response looks like, and when it may use the session.

import { type Check, hex, must, seconds, sleep } from "../check.ts";
import { readEcho } from "../inner.ts";
import { concat, mac1Is, NO_PSK, openResponse, readLe32, readLe64 } from "../noise.ts";
import { KEEPALIVE } from "../session.ts";
import { random, type } from "../trial.ts";

export const response: Check[] = [
  {
    id: "response.form",
    title: "responds with 92 bytes of type 2, reserved bytes zero, to our index",
    source: "whitepaper §5.4.3",
    async run(trial) {
      const { made, got } = await trial.begin();
      must(got, "no answer");
      must(got.bytes.length === 92, `${got.bytes.length} bytes`);
      must(readLe32(got.bytes, 0) === 2, `type and reserved bytes ${got.bytes.slice(0, 4).join(" ")}`);
      must(readLe32(got.bytes, 8) === made.sender, "another receiver index");
    },
  },
  {
    id: "response.macs",
    title: "responds with mac1 for our key, and mac2 of zeros without a cookie",
    source: "whitepaper §5.4.4",
    async run(trial) {
      const { got } = await trial.begin();
      must(got, "no answer");
      must(mac1Is(got.bytes, trial.publicKey), "mac1 is not for our key");
      must(
        got.bytes.slice(-16).every((byte) => byte === 0),
        "mac2 is not zero",
      );
    },
  },
  {
    id: "response.fresh",
    title: "draws a new ephemeral key and index for each response",
    source: "whitepaper §5.4.3",
    async run(trial) {
      const seen = new Set<string>();
      for (let i = 0; i < 6; i++) {
        const { got } = await trial.begin();
        must(got && type(got) === 2, `no answer to initiation ${i + 1}`);
        seen.add(`index ${readLe32(got.bytes, 4)}`).add(`key ${got.bytes.slice(12, 44).join(" ")}`);
      }
      must(seen.size === 12, `${12 - seen.size} of 6 indices and 6 keys came twice`);
    },
  },
  {
    id: "response.source",
    title: "answers from the address it was asked at",
    source: "Linux socket.c (sticky source)",
    needs: ["system"],
    async run(trial) {
      const made = trial.initiation();
      const host = trial.system.theirOther;
      await trial.send(made.message, trial.port, { host, port: trial.target.address.port });
      const got = await trial.answer(made);
      must(got, "no answer at its other address");
      must(got.from.host === host, `asked at ${host}, answers from ${got.from.host}`);
    },
  },
  {
    id: "response.confirmation",
    title: "sends no data under a new session before the initiator's first packet",
    source: "whitepaper §5.4.5, §6.3",
    needs: ["system", "inner"],
    async run(trial) {
      const session = await trial.handshake({ confirm: false });
      void trial.system.ping(trial.inner().ours);
      must(!(await trial.data(session, undefined, { timeoutMs: 1500 })), "data before our first packet");
      await trial.send(session.seal(KEEPALIVE));
      const sent = await trial.data(session, (plain) => readEcho(plain)?.kind === "request");
      must(sent, "what waited is not sent after our first packet");
      return `sent ${seconds(sent.received.at - session.born)} after the response`;
    },
  },
  {
    id: "response.not-retried",
    title: "responds once to one initiation, however long the initiator is silent",
    source: "whitepaper §6.4",
    seconds: 7,
    async run(trial) {
      const { got } = await trial.begin();
      must(got, "no answer");
      await sleep(6500);
      must(trial.inbox.all((it) => type(it) === 2).length === 0, "a second response");
    },
  },
  {
    id: "response.counter",
    title: "counts its data messages from 0, one by one",
    source: "whitepaper §5.4.6",
    needs: ["inner"],
    async run(trial) {
      const session = await trial.handshake();
      for (let i = 0n; i < 5n; i++) {
        const reply = await trial.echo(session);
        must(reply, "an echo request is not answered");
        must(reply.counter === i, `counter ${readLe64(reply.received.bytes, 8)}, not ${i}`);
      }
    },
  },
  {
    id: "psk.responder",
    title: "mixes the preshared key into its response",
    source: "whitepaper §5.2, §5.4.3",
    needs: ["uapi"],
    async run(trial) {
      const psk = random(32);
      await trial.configure(`preshared_key=${hex(psk)}`);
      const { made, got } = await trial.begin();
      must(got, "an initiation is not answered; the preshared key enters only with the response");
      const opens = (key: Uint8Array): boolean => {
        try {
          openResponse(made.state.clone(), made.priv, made.ephemeral, key, got.bytes.slice(12, 60));
          return true;
        } catch {
          return false;
        }
      };
      must(opens(psk), "the response does not open with the key");
      must(!opens(NO_PSK), "the response opens without the key");
      must(!opens(concat(psk.slice(0, 31), Uint8Array.of(psk[31] ^ 1))), "the response opens with another key");
    },
  },
  {
    id: "psk.removed",
    title: "does without the preshared key once it is set to zeros",
    source: "UAPI preshared_key",
    needs: ["uapi"],
    async run(trial) {
      await trial.configure(`preshared_key=${hex(random(32))}`);
      await trial.configure(`preshared_key=${"0".repeat(64)}`);
      await trial.handshake();
    },
  },
];
