// The examples and the README's own program, run as printed on the runtime that runs the tests, against a peer that is
// ourselves. On Deno each runs with the permissions that are promised for it, and may not ask for more.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import { Tunnel } from "../../host/tunnel/tunnel.ts";
import { type NameServer, startNameServer } from "./nameserver.ts";
import { LEFT, newPrivateKey, RIGHT, toText, until } from "./tunnels.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const isDeno = "Deno" in globalThis;
const LOOPBACK = { bindAddress: "127.0.0.1" };
const examples = suite("examples");

let peer: Tunnel;
let names: NameServer;
let conf: string;
let folder: string;

examples.before(async () => {
  // Inside the package, so that its own name is found from there.
  folder = mkdtempSync(join(root, "dist/examples-"));
  conf = join(folder, "wg0.conf");
  peer = await Tunnel.open(
    { privateKey: newPrivateKey(), addresses: [`${RIGHT}/32`, "10.0.0.1/32"], peers: [] },
    LOOPBACK,
  );
  const privateKey = newPrivateKey();
  const probe = await Tunnel.open({ privateKey, addresses: [LEFT], peers: [] }, LOOPBACK);
  await peer.setPeer({ publicKey: probe.publicKey, allowedIps: [LEFT] });
  await probe.close();
  const endpoint = `127.0.0.1:${peer.listenPort}`;
  const right = { publicKey: peer.publicKey, allowedIps: ["0.0.0.0/0"], endpoint, persistentKeepalive: 5 };
  writeFileSync(conf, toText({ privateKey, addresses: [`${LEFT}/32`], dns: [RIGHT], peers: [right] }));
  peer.serve(createServer((request, response) => response.end(`seen ${request.socket.remoteAddress} ${request.url}`)), {
    port: 80,
  });
  peer.listen({ port: 7, allowHalfOpen: true }, (socket) => void socket.on("error", () => {}).pipe(socket));
  names = startNameServer(peer, { "shop.test": { a: [RIGHT, "10.9.8.7"] } });
});

examples.after(async () => {
  await names.close();
  await peer.close();
  rmSync(folder, { recursive: true });
});

/** With what Deno is allowed for any of them; --no-prompt and a closed input: to ask is to fail. */
function start(file: string, args: string[], permissions = ["--allow-net", `--allow-read=${root}`]): ChildProcess {
  const runtime = isDeno ? ["run", "--no-prompt", ...permissions] : [];
  return spawn(process.execPath, [...runtime, file, ...args], { cwd: root, stdio: ["pipe", "pipe", "pipe"] });
}

async function output(child: ChildProcess, input = ""): Promise<string> {
  let text = "";
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => (text += chunk));
  child.stdin!.on("error", () => {}).end(input);
  const limit = setTimeout(() => child.kill("SIGKILL"), 15_000);
  const [code] = (await once(child, "close")) as [number];
  clearTimeout(limit);
  assert.equal(code, 0, text);
  return text.trim();
}

examples("connect.mjs: what goes in comes back", async () => {
  const child = start("examples/connect.mjs", [conf, RIGHT, "7"]);
  assert.equal(await output(child, "there and back\n"), "there and back");
});

examples("fetch.mjs", async () => {
  assert.match(
    await output(start("examples/fetch.mjs", [conf, `http://${RIGHT}/a`])),
    new RegExp(`^200 .*\nseen ${LEFT} /a$`),
  );
});

examples("undici-fetch.mjs, by a name that the tunnel's DNS knows", async () => {
  // undici itself looks at the environment when it is loaded.
  const child = start("examples/undici-fetch.mjs", [conf, "http://shop.test/b"], [
    "--allow-net",
    "--allow-read",
    "--allow-env",
  ]);
  assert.match(await output(child), new RegExp(`^200 .*\nseen ${LEFT} /b$`));
});

examples("udp-dns.mjs", async () => {
  assert.equal(await output(start("examples/udp-dns.mjs", [conf, RIGHT, "shop.test"])), `${RIGHT}\n10.9.8.7`);
});

examples("packets.mjs", async () => {
  assert.equal(await output(start("examples/packets.mjs", [conf, RIGHT])), `84 bytes from ${RIGHT}`);
});

examples("server.mjs: fetched by its peer, ended by a signal", async () => {
  const child = start("examples/server.mjs", [conf, "8080"]);
  let text = "";
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => (text += chunk));
  // The keepalive that its configuration asks for tells its peer where it is.
  await until("it says where it is, and whom it met", () => text.includes("handshake") || child.exitCode !== null);
  assert.match(text, new RegExp(`^http://${LEFT}:8080/$`, "m"));
  assert.ok(text.includes(`handshake with ${peer.publicKey}`), text);
  assert.equal(await (await peer.fetch(`http://${LEFT}:8080/d`)).text(), `Hello ${RIGHT}, you asked for /d\n`);
  process.kill(child.pid!, "SIGTERM"); // child.kill() of Deno 2.9 says that it killed, whatever the child does
  const [code] = (await once(child, "close")) as [number];
  assert.equal(code, 0, text);
});

if (isDeno) {
  examples("deno-fetch.ts with the permissions of its first line", async () => {
    const [first] = readFileSync(join(root, "examples/deno-fetch.ts"), "utf8").split("\n");
    const permissions = first.split(" ").filter((word) => word.startsWith("--allow"));
    assert.deepEqual(permissions.map((word) => word.split("=")[0]), ["--allow-net", "--allow-read"]);
    const child = start("examples/deno-fetch.ts", [conf, `http://${RIGHT}/c`], permissions);
    assert.match(await output(child), new RegExp(`^200 .*\nseen ${LEFT} /c$`));
  });
}

examples("the README's program as it is printed, but for the path", async () => {
  const text = readFileSync(join(root, "README.md"), "utf8");
  const programs = [...text.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map(([, code]) => code);
  assert.equal(programs.length, 1);
  const [program] = programs;
  assert.ok(program.trim().split("\n").length <= 16, "it has grown");
  const file = join(folder, "readme.mjs");
  writeFileSync(file, program.replace('"wg0.conf"', JSON.stringify(conf)));
  assert.match(await output(start(file, [])), new RegExp(`^200 seen ${LEFT} /\nover TCP$`));
});

examples.run();
