// The lab's page, in a namespace with its own server and a relay, talks to a real daemon in another: handshake, ping,
// and a page fetched through the tunnel.

import assert from "node:assert";
import { launch, openPage, PATH, whyNoChromium } from "../helpers/chromium.ts";
import { cannotRun } from "../helpers/namespace.ts";
import { until } from "../helpers/netlab.ts";
import { bringUp, INNER, LINK, newKeys, newPresharedKey, OUTER, PORT, Side, systemSuite } from "../helpers/system.ts";

const WEB_SERVER = `
const [, address] = process.argv;
const server = require("http").createServer((request, response) => response.end("you asked for " + request.url));
server.listen(80, address, () => console.log("bound"));
`;

const why = whyNoChromium();
if (why) cannotRun("the lab's page and a daemon", why);
else {
  systemSuite("the lab's page and a daemon", (test) => {
    test("handshake, ping and GET through a relay", async ({ ours, theirs, lab }) => {
      const [here, there] = [lab.namespace("a"), lab.namespace("b")];
      lab.connect([here, LINK.a, `${OUTER.a[4]}/24`], [there, LINK.b, `${OUTER.b[4]}/24`]);
      const [keys, presharedKey] = [newKeys(), newPresharedKey()];
      const daemon = await Side.start(there, "b", theirs);
      await daemon.setKeys();
      await daemon.set(`listen-port ${PORT.b}`);
      await daemon.set(
        `peer ${keys.publicKey} preshared-key ${daemon.file(presharedKey)} allowed-ips ${INNER.a[4]}/32`,
      );
      bringUp(daemon, "b");
      const server = there.start(["node", "-e", WEB_SERVER, INNER.b[4]]);
      const page = here.start([...ours.command, "lab", "--listen", "127.0.0.1:8000"]);
      const relay = here.start([
        ...ours.command,
        "relay",
        "--listen",
        "127.0.0.1:8001",
        "--allow",
        `${OUTER.b[4]}:${PORT.b}`,
        "--origin",
        "http://127.0.0.1:8000",
      ]);
      await until(
        "the servers",
        () =>
          server.output().includes("bound") && page.output().includes("http://") && relay.output().includes("Relaying"),
        15_000,
      );
      const browser = await launch(
        lab.file(`#!/bin/sh\nexec ip netns exec ${here.name} ${PATH} "$@"\n`, "chromium", 0o700),
      );
      try {
        const lab = await openPage(browser, "http://127.0.0.1:8000/#tab=real");
        await lab.page.fill(
          "#conf",
          [
            `[Interface]`,
            `PrivateKey = ${keys.privateKey}`,
            `Address = ${INNER.a[4]}/32`,
            `[Peer]`,
            `PublicKey = ${daemon.keys.publicKey}`,
            `PresharedKey = ${presharedKey}`,
            `Endpoint = ${OUTER.b[4]}:${PORT.b}`,
            `AllowedIPs = ${INNER.b[4]}/32`,
          ].join("\n"),
        );
        await lab.page.fill("#relay", "ws://127.0.0.1:8001");
        await lab.page.click("#connect");
        await lab.page.waitForSelector("#peer-state .ok");
        await lab.page.fill("#ping-to", INNER.b[4]);
        await lab.page.click("#ping");
        await lab.page.waitForFunction(() => /^[✓✗]/.test(document.querySelector("#output")!.textContent!));
        assert.match(
          await lab.page.innerText("#output"),
          new RegExp(`^✓ 56 bytes from ${INNER.b[4].replaceAll(".", "\\.")}: `),
        );
        await lab.page.fill("#get-url", `http://${INNER.b[4]}/from/the/page`);
        await lab.page.click("#get");
        await lab.page.waitForFunction(() => /^(HTTP|✗)/.test(document.querySelector("#output")!.textContent!));
        assert.match(await lab.page.innerText("#output"), /^HTTP\/1\.1 200 OK[\s\S]*you asked for \/from\/the\/page$/);
        const rows = (await lab.page.locator("#panel-real tbody tr").allInnerTexts()).reverse();
        assert.deepEqual(
          rows.slice(0, 2).map((row) => row.split("\t")[2].trim()),
          ["initiation", "response"],
        );
        assert.deepEqual(
          rows.filter((row) => row.includes("✗")),
          [],
        );
        assert.deepEqual(lab.complaints, []);
        const [peer] = await daemon.peers();
        assert.ok(peer.latestHandshake > 0 && peer.rxBytes > 0, "the daemon knows nothing of it");
      } finally {
        await browser.close();
      }
    });
  });
}
