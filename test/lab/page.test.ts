// The lab's page in a real browser: each field's flipped bit gives the named refusal, each scenario shows what it says,
// links and files come back as they were, hashes and vectors are those of Node, captures are read and damaged files
// borne, and a tunnel through a relay reaches a peer of ours. With and without cross-origin isolation.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "playwright-core";
import { suite } from "uvu";
import { WebSocketServer } from "ws";
import { formatKeys } from "../../host/capture/keylog.ts";
import { fileHeader, packetBlock } from "../../host/capture/pcapng.ts";
import { join as concat } from "../../host/netstack/bytes.ts";
import { Primitives } from "../../host/capture/primitives.ts";
import { udpPacket } from "../../host/capture/udp-packet.ts";
import { labServer } from "../../host/commands/lab.ts";
import { encodeBase64Key, generatePresharedKey, generatePrivateKey } from "../../host/keys.ts";
import { openPortable } from "../../host/portable.ts";
import { formatBenchTrace, parseBenchTrace } from "../../host/simulator/bench-trace.ts";
import { DROP_NAMES, EVENT_NAMES, prepareBuild } from "../../host/simulator/node.ts";
import { explain } from "../../host/simulator/reasons.ts";
import { SCENARIOS } from "../../host/simulator/scenarios.ts";
import { type Action, buildBench, formatActions, type Workbench } from "../../host/simulator/workbench.ts";
import { Relay } from "../../host/transport/relay.ts";
import { UdpTransport } from "../../host/transport/udp.ts";
import { Tunnel } from "../../host/tunnel/tunnel.ts";
import { parse } from "../../host/web/http.ts";
import { TappedTransport } from "../../host/web/tapped.ts";
import { runVectors, type Vectors } from "../../host/web/vectors.ts";
import { LEFT4, openPair, RIGHT4, until } from "../embed/pair.ts";
import { launch, openPage, whyNoChromium } from "../helpers/chromium.ts";
import { cannotRun } from "../helpers/namespace.ts";
import { FIELDS } from "../sim/paper.ts";

const CLI = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const LAB = new URL("../../dist/lab/", import.meta.url);
const VECTORS = new URL("../vectors/", import.meta.url);

await prepareBuild("page");
const crypto = await Primitives.open();
const bench = (actions: readonly Action[]): Workbench => buildBench(crypto, "page", 1, actions);
const vectors = JSON.parse(readFileSync(new URL("vectors.json", LAB), "utf8")) as Vectors;

function wasmguard(args: string[]): ReturnType<typeof spawn> {
  return spawn(process.execPath, [...("Deno" in globalThis ? ["run", "-A"] : []), CLI, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function ended(args: string[]): Promise<{ code: number; out: string }> {
  const child = wasmguard(args);
  let out = "";
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => (out += chunk));
  const [code] = (await once(child, "close")) as [number];
  return { code, out };
}

// --- what the page is made of -------------------------------------------------------------------------------------------

const parts = suite("lab: parts of the page");

parts("every reason and event has its sentence", () => {
  for (const name of [...DROP_NAMES, ...EVENT_NAMES].filter((name) => name && name !== "none" && name !== "ephemeral"))
    assert.ok(explain(name), name);
});

parts("the vectors are all there, and all pass in Node", () => {
  const count = (name: string, ivSize?: number): number => {
    const { testGroups } = JSON.parse(readFileSync(new URL(name, VECTORS), "utf8")) as {
      testGroups: { ivSize?: number; tests: unknown[] }[];
    };
    return testGroups
      .filter((group) => ivSize === undefined || group.ivSize === ivSize)
      .reduce((sum, { tests }) => sum + tests.length, 0);
  };
  assert.equal(vectors.aead.length, count("wycheproof_chacha20_poly1305.json", 96));
  assert.equal(vectors.xaead.length, count("wycheproof_xchacha20_poly1305.json", 192));
  assert.equal(vectors.x25519.length, count("wycheproof_x25519.json"));
  assert.equal(vectors.blake2s.length, 256);
  for (const { name, failed } of runVectors(crypto, vectors)) assert.deepEqual(failed, [], name);
});

parts("a vector that is wrong fails", () => {
  const [first] = vectors.aead;
  const wrong = {
    ...vectors,
    aead: [{ ...first, tag: first.tag.replace(/^./, (digit) => (digit === "0" ? "1" : "0")) }],
  };
  assert.deepEqual(runVectors(crypto, wrong).next().value!.failed, [`case ${first.id}`]);
});

parts("HTTP answers are read, whole, chunked or none", () => {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  const plain = parse(bytes("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody"));
  assert.deepEqual(
    [plain.status, plain.headers, new TextDecoder().decode(plain.body)],
    ["HTTP/1.1 200 OK", ["A: b"], "body"],
  );
  const chunked = parse(
    bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n3;x=y\r\n it\r\n0\r\n\r\n"),
  );
  assert.equal(new TextDecoder().decode(chunked.body), "body it");
  for (const bad of ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"])
    assert.throws(() => parse(bytes(bad)), /answer/, bad);
});

parts("a saved bench comes back; what is none is refused by name", () => {
  const saved = bench([
    { do: "send", who: 0 },
    { do: "deliver", at: 0 },
  ]);
  const text = formatBenchTrace(saved);
  assert.deepEqual(parseBenchTrace(text), { seed: 1, actions: saved.actions, lines: saved.sim.trace.lines });
  for (const [bad, why] of [
    ["", /does not begin/],
    ['# wasmguard trace {"seed":1}\n', /recording of wasmguard simulate/],
    ["# wasmguard bench {\n", /cannot be read/],
    ["# wasmguard bench null\n", /cannot be read/],
    ['# wasmguard bench {"seed":1}\n', /no actions/],
    ['# wasmguard bench {"seed":-1,"do":""}\n', /seed/],
    ['# wasmguard bench {"seed":1,"do":"s0.q"}\n', /Action 2/],
  ] as const)
    assert.throws(() => parseBenchTrace(bad), { message: why }, bad);
});

parts("wasmguard lab serves its files and nothing else, and ends at Ctrl-C", async () => {
  const child = wasmguard(["lab"]);
  const [line] = (await once(child.stdout!, "data")) as [Buffer];
  const url = String(line).trim();
  const page = await fetch(url);
  assert.equal(page.headers.get("cross-origin-opener-policy"), "same-origin");
  assert.match(
    page.headers.get("content-security-policy")!,
    /^default-src 'none'; script-src 'self' 'wasm-unsafe-eval'/,
  );
  const text = await page.text();
  assert.ok(!/<script(?![^>]*\bsrc=)|\bon\w+=|style=/.test(text), "something stands inline");
  for (const [name, type] of [
    ["app.js", "text/javascript; charset=utf-8"],
    ["core-page.wasm", "application/wasm"],
    ["vectors.json", "application/json"],
  ]) {
    const response = await fetch(url + name);
    assert.deepEqual([response.status, response.headers.get("content-type")], [200, type]);
    await response.body!.cancel();
  }
  for (const name of ["nothing", "..%2fcli.js", "%2e%2e/cli.js", "app.js/", "__proto__"]) {
    const response = await fetch(url + name);
    assert.equal(response.status, 404, name);
    await response.body!.cancel();
  }
  const post = await fetch(url, { method: "POST", body: "" });
  assert.equal(post.status, 405);
  await post.body!.cancel();
  process.kill(child.pid!, "SIGINT");
  assert.deepEqual(await once(child, "close"), [0, null]);
});

parts.run();

// --- the browser ----------------------------------------------------------------------------------------------------------

const why = whyNoChromium();
if (why) cannotRun("lab: the page in a browser", why);
else await inBrowser();

async function inBrowser(): Promise<void> {
  const servers: Record<string, string> = {};
  const open: Server[] = [];
  for (const isolated of [true, false]) {
    const server = labServer({ isolated }).listen(0, "127.0.0.1");
    await once(server, "listening");
    open.push(server);
    servers[String(isolated)] = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  }
  const folder = mkdtempSync(join(tmpdir(), "wasmguard-lab-"));
  let browser: Browser;
  let page: Page;
  let complaints: string[] = [];

  const test = suite("lab: the page");

  test.before(async () => {
    browser = await launch();
    ({ page, complaints } = await openPage(browser, servers.true, { acceptDownloads: true }));
  });
  test.after(async () => {
    await browser.close();
    for (const server of open) server.close();
    rmSync(folder, { recursive: true });
  });
  test.after.each(() => assert.deepEqual(complaints.splice(0), []));

  /** Goes where a link goes, and waits for the page to have followed. */
  const go = (hash: string): Promise<void> =>
    page.evaluate((hash) => {
      history.replaceState(null, "", location.pathname);
      return new Promise<void>((resolve) => {
        addEventListener("hashchange", () => resolve(), { once: true });
        location.hash = hash;
      });
    }, hash);
  const hash = () => page.getAttribute("#trace-hash", "data-hash");
  const news = () => page.innerText(".news");
  const press = (key: string) => page.click(`[data-key="${key}"]`);
  const tab = (id: string) => page.click(`#tab-${id}`);
  const alertText = (panel: string) => page.innerText(`#panel-${panel} .notice`);

  for (const type of ["initiation", "response"] as const) {
    test(`a flipped bit in each field of the ${type}, by clicks`, async () => {
      const before = type === "initiation" ? "s0" : "s0.d0";
      for (const [field, [from, to]] of Object.entries(FIELDS[type])) {
        const at = field === "type" ? from + 1 : to - 1;
        await go(`seed=1&do=${before}`);
        await press(`byte${at}`);
        await press("bit3");
        assert.equal(await page.locator(".byte.changed").count(), 1, field);
        await press("deliver0");
        const said = await news();
        const wanted = field === "mac2" ? null : field === "type" ? "bad_type" : "bad_mac1";
        if (wanted)
          assert.ok(
            said.includes(`✗ ${type === "initiation" ? "b" : "a"} refused it: ${wanted} ${explain(wanted)}`),
            `${field}: ${said}`,
          );
        else assert.ok(!said.includes("✗"), `${field}: ${said}`);
      }
    });
  }

  for (const { id, actions, shows } of SCENARIOS) {
    test(`scenario by a click: ${id}`, async () => {
      await page.click(`[data-scenario="${id}"]`);
      const said = await page.innerText(".history");
      for (const wanted of shows) {
        const [side, what] = wanted.split(": ");
        assert.ok(
          said.includes(`${side}: ${what}`) || said.includes(`${side} refused it: ${what}`),
          `${wanted} is not in ${said}`,
        );
      }
      assert.equal(await hash(), bench(actions).sim.trace.hex());
      assert.equal(new URL(page.url()).hash, `#seed=1&do=${formatActions(actions)}`);
    });
  }

  test("a handshake by keyboard, back, forward, and the link of it", async () => {
    await go("seed=1&do=");
    for (const key of ["a-send", "deliver0", "deliver0", "deliver0"]) {
      await page.focus(`[data-key="${key}"]`);
      await page.keyboard.press("Enter");
    }
    assert.match(await news(), /b: session_confirmed[\s\S]*a packet of 84 bytes|a packet of 96 bytes/);
    const done = await hash();
    const link = page.url();
    assert.ok(link.endsWith("#seed=1&do=s0.d0.d0.d0"), link);
    await press("back");
    await press("beginning");
    assert.equal(await page.isEnabled('[data-key="back"]'), false);
    for (let i = 0; i < 4; i++) await press("forward");
    assert.equal(await hash(), done);
    const other = await openPage(browser, link);
    assert.equal(await other.page.getAttribute("#trace-hash", "data-hash"), done);
    assert.deepEqual(other.complaints, []);
    await other.page.close();
  });

  test("the grid by arrow keys, and the tabs", async () => {
    await go("seed=1&do=s0");
    await page.focus('[data-key="byte0"]');
    for (const key of ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"])
      await page.keyboard.press(key);
    await page.keyboard.press("Enter");
    assert.match(await page.innerText(".bits"), /byte 17 · ephemeral/);
    await page.focus("#tab-peers");
    for (const id of ["real", "decode", "check", "peers"]) {
      await page.keyboard.press("ArrowRight");
      assert.equal(await page.getAttribute(`#tab-${id}`, "aria-selected"), "true");
      assert.equal(await page.isVisible(`#panel-${id}`), true);
    }
  });

  test("links that cannot be opened say why, and the page goes on", async () => {
    for (const [link, reason] of [
      ["do=zz", /"zz", cannot be read/],
      ["seed=1.5&do=s0", /seed/],
      ["seed=1&do=d5", /Action 1: Cannot deliver: 0 datagrams/],
    ] as const) {
      await go(link);
      assert.match(await page.innerText("main > .notice"), reason);
    }
    await go("seed=7&do=s0");
    assert.equal(await page.isVisible("main > .notice"), false);
    assert.notEqual(await hash(), bench([{ do: "send", who: 0 }]).sim.trace.hex(), "the seed makes no difference");
  });

  test("a saved trace: the same in Node and in the page; foreign and damaged ones are refused", async () => {
    const { actions } = SCENARIOS.find(({ id }) => id === "cookie")!;
    await go(`seed=1&do=${formatActions(actions)}`);
    const [download] = await Promise.all([page.waitForEvent("download"), press("save")]);
    const path = join(folder, "cookie.trace");
    await download.saveAs(path);
    const text = readFileSync(path, "utf8");
    assert.equal(text, formatBenchTrace(bench(actions)));
    const { trace } = bench(actions).sim;
    assert.deepEqual(await ended(["replay", path]), {
      code: 0,
      out: `the same: ${trace.count} events, ${trace.hex()}\n`,
    });
    const load = async (name: string, content: string | Uint8Array): Promise<string> => {
      await page.setInputFiles("#load-trace", { name, mimeType: "text/plain", buffer: Buffer.from(content) });
      await page.waitForFunction(
        (name) => document.querySelector("#panel-peers .notice")!.textContent!.includes(name),
        name === "a.trace" ? name : "Error",
      );
      return alertText("peers");
    };
    await press("reset");
    assert.match(
      await load("a.trace", text),
      new RegExp(`the same happened again, ${trace.count} events, ${trace.hex()}`),
    );
    assert.equal(await hash(), trace.hex());
    await press("back"); // the notice goes
    const lines = text.split("\n");
    lines[5] = lines[5].replace(/.$/, (digit) => (digit === "0" ? "1" : "0"));
    assert.match(await load("changed", lines.join("\n")), /differs at event 5/);
    for (const [content, reason] of [
      ["", /does not begin/],
      ["# wasmguard trace {}\n", /simulate/],
      [Uint8Array.of(0x0a, 0x0d, 0x0d, 0x0a), /does not begin/],
    ] as const) {
      await press("back");
      assert.match(await load("bad", content), reason);
    }
  });

  // --- check --------------------------------------------------------------------------------------------------------------

  test("the vectors give what they give in Node, and the bench measures every build", async () => {
    await tab("check");
    await page.click("#run-vectors");
    await page.waitForSelector("#vectors-verdict");
    const rows = await page.locator("#vectors tbody tr").allInnerTexts();
    const wanted = [...runVectors(crypto, vectors)];
    assert.deepEqual(
      rows.map((row) => row.split("\t").map((cell) => cell.trim())),
      wanted.map(({ name, source, passed }) => [name, source, String(passed), "✓ none"]),
    );
    await page.click("#run-bench");
    await page.waitForSelector("#speeds figure", { timeout: 20_000 });
    const speeds = await page.locator("#speeds tbody tr").allInnerTexts();
    assert.deepEqual(
      speeds.map((row) => row.split("\t")[0].trim()),
      ["page", "plain", "relaxed"],
    );
    for (const row of speeds) assert.match(row, /[1-9]\d* MB\/s\s+[1-9]\d*\/s/);
    assert.equal(await page.locator("#speeds svg rect").count(), 6);
  });

  // --- decode -------------------------------------------------------------------------------------------------------------

  test("a capture with a key log: every message read, the inner packet too", async () => {
    const { capture, keys } = await makeCapture();
    await tab("decode");
    const give = (input: string, name: string, content: string | Uint8Array) =>
      page.setInputFiles(input, { name, mimeType: "", buffer: Buffer.from(content) });
    const summary = (text: string) =>
      page.waitForFunction((text) => document.querySelector("#decode-summary")!.textContent!.includes(text), text);
    await give("#capture-file", "lab.pcapng", capture);
    await summary("WireGuard messages");
    assert.match(await page.innerText("#panel-decode .inspector"), /mac1 fits no static public key/);
    await give("#key-file", "lab.keys", keys);
    await summary("keys of lab.keys");
    const rows = await page.locator("#panel-decode tbody tr").allInnerTexts();
    assert.deepEqual(
      rows.slice(0, 3).map((row) => row.split("\t")[2].trim()),
      ["initiation", "response", "data"],
    );
    assert.ok(!rows.some((row) => row.includes("✗")), rows.join("\n"));
    await page.click('#panel-decode [data-key="message3"]');
    assert.match(await page.innerText("#panel-decode .inspector"), /IPv4 10\.0\.0\.1 > 10\.0\.0\.2 UDP/);
    await page.click('#panel-decode [data-key="message2"]');
    assert.match(await page.innerText("#panel-decode .steps"), /ee[\s\S]*se[\s\S]*psk[\s\S]*split/);

    // Damaged: what was read before the damage stays, the reason is told, and the page goes on.
    await give("#capture-file", "cut.pcapng", capture.subarray(0, capture.length - 5));
    await summary("cut.pcapng");
    assert.match(await alertText("decode"), /the file ends before/);
    assert.ok((await page.locator("#panel-decode tbody tr").count()) >= 2, "what came before the damage is gone");
    for (const [content, reason] of [
      [Uint8Array.of(1, 2, 3), /no capture/],
      [new Uint8Array(5000).fill(0x91), /neither pcap nor pcapng/],
    ] as const) {
      await give("#capture-file", "bad", content);
      await page.waitForFunction(
        () =>
          !document.querySelector<HTMLElement>("#panel-decode .notice")!.hidden &&
          document.querySelector("#decode-summary")!.textContent!.startsWith("bad"),
      );
      assert.match(await alertText("decode"), reason);
    }
    await give("#key-file", "bad.keys", "LOCAL_STATIC_PRIVATE_KEY = nothing\n");
    await page.waitForFunction(() => document.querySelector("#panel-decode .notice")!.textContent!.includes("line 1"));
    const huge = join(folder, "huge.pcap");
    writeFileSync(huge, "");
    truncateSync(huge, 1 << 30);
    await page.setInputFiles("#capture-file", huge);
    await page.waitForFunction(() =>
      document.querySelector("#panel-decode .notice")!.textContent!.includes("200 MiB are the most"),
    );
    await give("#capture-file", "lab.pcapng", capture);
    await summary("lab.pcapng");
    assert.equal(await page.locator("#panel-decode tbody tr").count(), rows.length);
  });

  // --- a real peer ----------------------------------------------------------------------------------------------------------

  for (const isolated of ["true", "false"]) {
    test(`a peer behind a relay: handshake, ping and GET; ${isolated === "true" ? "" : "not "}isolated`, async () => {
      const origin = servers[isolated].slice(0, -1);
      const peer = await openPeer();
      const relay = new Relay({
        allow: [`127.0.0.1:${peer.tunnel.listenPort}`],
        token: "the relay's token",
        origins: [origin],
      });
      const bound = await relay.listen(0, "127.0.0.1");
      const other = await openPage(browser, `${servers[isolated]}#tab=real`);
      try {
        assert.equal(await other.page.evaluate(() => crossOriginIsolated), isolated === "true");
        assert.match(await other.page.innerText("footer"), isolated === "true" ? /core-relaxed/ : /core-page/);
        await other.page.fill("#conf", peer.conf);
        await other.page.fill("#relay", `ws://127.0.0.1:${bound.port}`);
        await other.page.fill("#token", "another token, wrong");
        await other.page.click("#connect");
        await other.page.waitForFunction(() =>
          document.querySelector("#panel-real .notice")!.textContent!.includes("token"),
        );
        // Chromium writes refusals into the console, and that is all it writes.
        const refused = other.complaints.splice(0);
        assert.ok(
          refused.every((text) => text.includes("401") || text.includes("/udp/")),
          refused.join("\n"),
        );
        await other.page.click("#disconnect");
        await other.page.fill("#token", "the relay's token");
        await other.page.click("#connect");
        await other.page.waitForSelector("#peer-state .ok");
        await other.page.fill("#ping-to", "10.9.0.1");
        await other.page.click("#ping");
        await other.page.waitForFunction(() => document.querySelector("#output")!.textContent !== "…");
        assert.match(await other.page.innerText("#output"), /^✓ 56 bytes from 10\.9\.0\.1: /);
        await other.page.fill("#get-url", "http://10.9.0.1/hello?x=1");
        await other.page.click("#get");
        await other.page.waitForFunction(() => document.querySelector("#output")!.textContent!.includes("HTTP"));
        const answer = await other.page.innerText("#output");
        assert.match(answer, /^HTTP\/1\.1 200 OK/);
        assert.ok(answer.includes("you asked for /hello?x=1"), answer);
        await other.page.fill("#get-url", "https://10.9.0.1/");
        await other.page.click("#get");
        await other.page.waitForFunction(() => document.querySelector("#output")!.textContent!.includes("Only http:"));
        const rows = (await other.page.locator("#panel-real tbody tr").allInnerTexts()).reverse();
        assert.deepEqual(
          rows.slice(0, 2).map((row) => row.split("\t")[2].trim()),
          ["initiation", "response"],
        );
        assert.ok(!rows.some((row) => row.includes("✗")), rows.join("\n"));
        // Secrets stay: neither in the address nor in any storage.
        const kept = await other.page.evaluate(() =>
          [location.href, JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie].join(),
        );
        assert.ok(!kept.includes(peer.privateKey) && !kept.includes("token,"), kept);
        await other.page.click("#disconnect");
        await other.page.waitForFunction(() =>
          document.querySelector("#peer-state")!.textContent!.includes("not connected"),
        );
        for (const [conf, reason] of [
          ["", /no PrivateKey/],
          ["[Interface]\nPrivateKey = x\n", /line 2: PrivateKey/],
        ] as const) {
          await other.page.fill("#conf", conf);
          await other.page.click("#connect");
          await other.page.waitForSelector("#panel-real .notice.error");
          assert.match(await other.page.innerText("#panel-real .notice"), reason);
        }
        assert.deepEqual(other.complaints, []);
      } finally {
        await other.page.close();
        await relay.close();
        await peer.close();
      }
    });
  }

  test("a relay that is hostile: whatever it sends is refused, named, and borne", async () => {
    const hostile = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await once(hostile, "listening");
    let started = 0;
    hostile.on("connection", (socket) => {
      socket.on("error", () => {});
      socket.on("message", (message: Buffer) => {
        started++;
        socket.send("text, and no datagram");
        socket.send(new Uint8Array(0));
        socket.send(new Uint8Array(70_000));
        for (const type of [0, 1, 2, 3, 4, 255])
          for (const length of [1, 4, 32, 64, 92, 148, 1500]) socket.send(new Uint8Array(length).fill(type, 0, 1));
        socket.send(message); // its own initiation
        const changed = new Uint8Array(message);
        changed[20] ^= 1;
        socket.send(changed);
      });
    });
    const other = await openPage(browser, `${servers.true}#tab=real`);
    const key = encodeBase64Key(generatePrivateKey());
    await other.page.fill(
      "#conf",
      `[Interface]\nPrivateKey = ${key}\nAddress = 10.9.0.2/32\n[Peer]\nPublicKey = ${encodeBase64Key(crypto.publicKey(generatePrivateKey()))}\nEndpoint = vpn.example:51820\nAllowedIPs = 0.0.0.0/0\n`,
    );
    await other.page.fill("#relay", `ws://127.0.0.1:${(hostile.address() as AddressInfo).port}`);
    await other.page.click("#connect");
    await other.page.waitForFunction(() =>
      ["badType", "badLength", "badMac1", "EPROTO", "EMSGSIZE"].every((name) =>
        document.querySelector("#peer-state")!.textContent!.includes(name),
      ),
    );
    assert.ok(started >= 1, "nothing came to the relay");
    assert.match(await other.page.innerText("#panel-real tbody"), /us → vpn\.example:51820/);
    await other.page.click("#panel-real .list tbody tr:nth-child(2) button");
    assert.match(await other.page.innerText("#panel-real .inspector"), /Message \d+/);
    await other.page.fill("#get-url", "http://10.9.0.1/");
    await other.page.click("#disconnect");
    await other.page.waitForFunction(() =>
      document.querySelector("#peer-state")!.textContent!.includes("not connected"),
    );
    assert.deepEqual(other.complaints, []);
    await other.page.close();
    for (const client of hostile.clients) client.terminate();
    hostile.close();
  });

  test("without isolation the same trace, and a bench of the builds that run", async () => {
    const other = await openPage(browser, `${servers.false}#seed=1&do=s0.d0.d0.d0`);
    assert.equal(await other.page.evaluate(() => crossOriginIsolated), false);
    assert.equal(
      await other.page.getAttribute("#trace-hash", "data-hash"),
      bench([{ do: "send", who: 0 }, ...Array(3).fill({ do: "deliver", at: 0 })]).sim.trace.hex(),
    );
    await other.page.click("#tab-check");
    await other.page.click("#run-bench");
    await other.page.waitForSelector("#speeds figure", { timeout: 20_000 });
    const [page, ...shared] = await other.page.locator("#speeds tbody tr").allInnerTexts();
    assert.match(page, /^page\s+[1-9]\d* MB\/s\s+[1-9]\d*\/s/);
    assert.equal(shared.length, 2);
    for (const row of shared) assert.match(row, /[1-9]\d* MB\/s|does not run here/);
    assert.deepEqual(other.complaints, []);
    await other.page.close();
  });

  test("nothing is wider than a narrow screen", async () => {
    const other = await openPage(browser, `${servers.true}#seed=1&do=s0.d0.d0`, {
      viewport: { width: 360, height: 780 },
    });
    const { capture, keys } = await makeCapture();
    for (const id of ["peers", "real", "decode", "check"]) {
      await other.page.click(`#tab-${id}`);
      if (id === "check") {
        await other.page.click("#run-vectors");
        await other.page.waitForSelector("#vectors-verdict");
      } else if (id === "decode") {
        await other.page.setInputFiles("#capture-file", [
          { name: "a.pcapng", mimeType: "", buffer: Buffer.from(capture) },
        ]);
        await other.page.setInputFiles("#key-file", [{ name: "a.keys", mimeType: "", buffer: Buffer.from(keys) }]);
        await other.page.waitForSelector("#panel-decode .steps");
      }
      assert.equal(await other.page.evaluate(() => document.documentElement.scrollWidth), 360, id);
    }
    await other.page.close();
  });

  test.run();
}

/** What two devices of ours say to each other, as one of them could have captured it. */
async function makeCapture(): Promise<{ capture: Uint8Array; keys: string }> {
  const blocks: Uint8Array[] = [fileHeader("a test")];
  let keys = "";
  let openings = 0;
  const udp = new UdpTransport({ address: "127.0.0.1" });
  const own = { address: Uint8Array.of(192, 0, 2, 1), port: 51820 };
  const tapped = new TappedTransport(udp, (incoming, bytes, remote) => {
    const sides = [{ address: Uint8Array.of(192, 0, 2, 2), port: remote.port }, own] as const;
    const packet = udpPacket(sides[incoming ? 0 : 1], sides[incoming ? 1 : 0], bytes);
    blocks.push(packetBlock(packet, BigInt(blocks.length) * 1_000_000n));
  });
  const pair = await openPair((options) => {
    const left = openings++ === 0;
    return openPortable({
      ...options,
      transport: left ? tapped : udp,
      onHandshakeKeys: left ? (each) => (keys += formatKeys(each)) : undefined,
    });
  });
  const inner = udpPacket({ address: LEFT4, port: 1000 }, { address: RIGHT4, port: 2000 }, new Uint8Array(40));
  pair.left.device.link.send({ header: inner, payload: [], gsoSize: 0, checksumStart: 0 });
  await until(() => pair.right.came.length === 1, "the packet");
  await pair.close();
  return { capture: concat(blocks), keys };
}

/** A tunnel of ours with a web server inside, and the configuration to reach it. */
async function openPeer(): Promise<{ tunnel: Tunnel; conf: string; privateKey: string; close(): Promise<void> }> {
  const [theirs, ours, psk] = [generatePrivateKey(), generatePrivateKey(), generatePresharedKey()];
  const [theirPublic, ourPublic] = [theirs, ours].map((key) => encodeBase64Key(crypto.publicKey(key)));
  const privateKey = encodeBase64Key(ours);
  const tunnel = await Tunnel.open(
    `[Interface]\nPrivateKey = ${encodeBase64Key(theirs)}\nAddress = 10.9.0.1/32\n[Peer]\nPublicKey = ${ourPublic}\nPresharedKey = ${encodeBase64Key(psk)}\nAllowedIPs = 10.9.0.2/32\n`,
    { bindAddress: "127.0.0.1", transport: "udp" },
  );
  const server = createServer((request, response) => response.end(`you asked for ${request.url}`));
  tunnel.serve(server, { port: 80 });
  const conf = `[Interface]\nPrivateKey = ${privateKey}\nAddress = 10.9.0.2/32\n[Peer]\nPublicKey = ${theirPublic}\nPresharedKey = ${encodeBase64Key(psk)}\nEndpoint = 127.0.0.1:${tunnel.listenPort}\nAllowedIPs = 10.9.0.0/24\n`;
  return { tunnel, conf, privateKey, close: () => tunnel.close() };
}
