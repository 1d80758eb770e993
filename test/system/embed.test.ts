// A program with a tunnel inside against a wireguard-go peer in another namespace, and against our own daemon: HTTP, a
// WebSocket, a long stream both ways, names and pings, with no interface and no privilege on its side.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { until } from "../helpers/netlab.ts";
import { bringUp, INNER, LINK, newKeys, newPresharedKey, OUTER, PORT, Side, systemSuite } from "../helpers/system.ts";

const STREAM_BYTES = 20 << 20;
const FAR = fileURLToPath(new URL("../helpers/far-services.mjs", import.meta.url));
const NEAR = fileURLToPath(new URL("../helpers/near-tunnel.mjs", import.meta.url));

const sha256 = (data: Buffer | string): string => createHash("sha256").update(data).digest("hex");

systemSuite("a tunnel inside a program", (test) => {
  for (const other of ["theirs", "ours"] as const) {
    for (const family of [4, 6] as const) {
      test(`everything, against ${other}, inside over IPv${family}`, async (bench) => {
        const { ours, lab } = bench;
        const [near, namespace] = [lab.namespace("a"), lab.namespace("b")];
        lab.connect([near, LINK.a, `${OUTER.a[4]}/24`], [namespace, LINK.b, `${OUTER.b[4]}/24`]);
        const keys = newKeys();
        const presharedKey = newPresharedKey();
        const far = await Side.start(namespace, "b", bench[other]);
        await far.set(
          `private-key ${far.file(far.keys.privateKey)} listen-port ${PORT.b} peer ${keys.publicKey} ` +
            `preshared-key ${far.file(presharedKey)} allowed-ips ${INNER.a[4]}/32,${INNER.a[6]}/128`,
        );
        bringUp(far, "b");
        const runtime = ours.command.slice(0, -1);
        const services = namespace.start([...runtime, FAR, INNER.b[4], String(STREAM_BYTES)]);
        await until("the far services", () => services.output().includes("ready"), 20_000);
        const conf = lab.file(
          `[Interface]\nPrivateKey = ${keys.privateKey}\nAddress = ${INNER.a[4]}/32, ${INNER.a[6]}/128\nDNS = ${INNER.b[4]}\n` +
            `[Peer]\nPublicKey = ${far.keys.publicKey}\nPresharedKey = ${presharedKey}\nEndpoint = ${OUTER.b[4]}:${PORT.b}\n` +
            `AllowedIPs = 0.0.0.0/0, ::/0\n`,
        );
        const args = [...runtime, NEAR, conf, INNER.b[family], String(STREAM_BYTES)];
        const out = JSON.parse(await near.run(args, { timeoutMs: 50_000 }));
        const body = sha256("x".repeat(100_000));
        const megabytes = Buffer.concat(Array.from({ length: STREAM_BYTES >> 20 }, (_, i) => Buffer.alloc(1 << 20, i)));
        assert.deepEqual(out, {
          fetched: `POST /own ${body}\n`, undici: `POST /undici ${body}\n`, echo: "hello", received: STREAM_BYTES,
          hash: sha256(megabytes), theyGotOurs: true, address: "192.0.2.53", pinged: true, roles: ["initiator"],
        });
      });
    }
  }
});
