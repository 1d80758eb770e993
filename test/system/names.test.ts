// Endpoints by name, in namespaces that have name servers and hosts files of their own: a name that moves is followed,
// by its time to live and by handshakes that fail; the addresses of a name are tried in turn.

import assert from "node:assert";
import { mkdirSync, readdirSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Namespace, sleep, until } from "../helpers/netlab.ts";
import { configure, ping, site, succeed } from "../helpers/quick.ts";
import { INNER, OUTER, PORT, systemSuite } from "../helpers/system.ts";

// A name server that answers each question for A with the addresses of a file, for other types with none.
const NAME_SERVER = `
const { readFileSync } = require("fs");
const [, file, address] = process.argv;
const socket = require("dgram").createSocket("udp4");
socket.on("message", (query, from) => {
  const end = query.indexOf(0, 12) + 5;
  const isA = query.readUInt16BE(end - 4) === 1;
  const [ttl, ...addresses] = readFileSync(file, "utf8").trim().split(" ");
  const answers = (isA ? addresses : []).map((text) => {
    const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, Number(ttl), 0, 4, ...text.split(".").map(Number)]);
    return record;
  });
  const head = Buffer.from(query.subarray(0, 12));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(answers.length, 6);
  head.writeUInt32BE(0, 8);
  socket.send(Buffer.concat([head, query.subarray(12, end), ...answers]), from.port, from.address);
});
socket.bind(53, address, () => console.log("bound"));
`;

systemSuite("endpoints by name", (test) => {
  /** Files that `ip netns exec` shows in place of the machine's. */
  async function withFiles(
    namespace: Namespace,
    files: Record<string, string>,
    run: (folder: string) => Promise<void>,
  ): Promise<void> {
    const folder = `/etc/netns/${namespace.name}`;
    mkdirSync(folder, { recursive: true });
    try {
      for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
      await run(folder);
    } finally {
      rmSync(folder, { recursive: true });
      if (readdirSync("/etc/netns").length === 0) rmdirSync("/etc/netns");
    }
  }

  /** 10.0.0.9 takes datagrams, and nobody answers. */
  const DEAD = "10.0.0.9";

  test("a name that moves: asked for again when its time ends, and when handshakes fail", async ({ ours, theirs, lab }) => {
    const byTime = async (): Promise<void> => {
      const place = await site(lab, ours, theirs);
      const records = lab.file(`1 ${DEAD}`);
      const server = place.other.namespace.start(["node", "-e", NAME_SERVER, records, OUTER.b[4]]);
      await until("the name server", () => server.output().includes("bound"));
      await withFiles(
        place.here,
        { "resolv.conf": `nameserver ${OUTER.b[4]}\n`, hosts: "127.0.0.1 localhost\n" },
        async () => {
          const file = configure(place, { endpoint: `vpn.example:${PORT.b}` });
          await succeed(place, ["up", file]);
          assert.match(await place.here.run(`wg show ${place.name} endpoints`), new RegExp(`\t${DEAD}:${PORT.b}$`));
          writeFileSync(records, `1 ${OUTER.b[4]}`);
          // No packet, no handshake: it is the time to live that ends.
          await until(
            "the new address",
            async () => (await place.here.run(`wg show ${place.name} endpoints`)).endsWith(`\t${OUTER.b[4]}:${PORT.b}`),
            9000,
          );
          await ping(place.here, INNER.b[4]);
          // It lives: no answer moves it now.
          writeFileSync(records, `1 ${DEAD}`);
          await sleep(6000);
          await place.here.run(`ping -n -c 1 -W 1 ${INNER.b[4]}`);
          await succeed(place, ["down", file]);
        },
      );
    };
    const byFailure = async (): Promise<void> => {
      const place = await site(lab, ours, theirs);
      await withFiles(
        place.here,
        { "resolv.conf": "nameserver 127.0.0.1\n", hosts: `${DEAD} vpn.example\n` },
        async (folder) => {
          const file = configure(place, { endpoint: `vpn.example:${PORT.b}` });
          await succeed(place, ["up", file]);
          writeFileSync(join(folder, "hosts"), `${OUTER.b[4]} vpn.example\n`);
          await place.here.run(`ping -n -i 0.5 -c 1 -w 25 ${INNER.b[4]}`);
          await succeed(place, ["down", file]);
        },
      );
    };
    const byRace = async (): Promise<void> => {
      const place = await site(lab, ours, theirs);
      const hosts = `fd00:bb::9 vpn.example\n${DEAD} vpn.example\n${OUTER.b[4]} vpn.example\n`;
      await withFiles(place.here, { "resolv.conf": "nameserver 127.0.0.1\n", hosts }, async () => {
        const file = configure(place, { endpoint: `vpn.example:${PORT.b}` });
        await succeed(place, ["up", file]);
        await place.here.run(`ping -n -i 0.5 -c 1 -w 25 ${INNER.b[4]}`);
        assert.match(await place.here.run(`wg show ${place.name} endpoints`), new RegExp(`\t${OUTER.b[4]}:${PORT.b}$`));
        await succeed(place, ["down", file]);
      });
    };
    await Promise.all([byTime(), byFailure(), byRace()]);
  });
});
