// wasmguard proxy as a process: what it prints, its exit codes and signals, what it needs of Deno's permissions.

import assert from "node:assert";
import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { basename, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { writeFileSync } from "node:fs";
import { suite } from "uvu";
import { Raw, World, curl, waitFor } from "./proxy-fixture.ts";
import { tunnelWorld } from "./proxy-tunnels.ts";

const CLI = process.env.WASMGUARD_CLI || fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const isDeno = basename(process.execPath).startsWith("deno");
/** no ffi, no env, no write, no run */
const RUNTIME = isDeno ? ["run", "--no-prompt", "--allow-net", "--allow-read", CLI] : [CLI];

class Command {
  readonly child: ChildProcess;
  out = Buffer.alloc(0);
  err = "";
  code: number | null = null;

  constructor(args: string[], env: Record<string, string> = {}) {
    this.child = spawn(process.execPath, [...RUNTIME, "proxy", ...args], {
      env: { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "", LOG_LEVEL: "verbose", ...env },
    });
    this.child.stdout!.on("data", (chunk) => (this.out = Buffer.concat([this.out, chunk])));
    this.child.stderr!.on("data", (chunk) => (this.err += chunk));
    this.child.on("exit", (code) => (this.code = code ?? -1));
  }

  /** Port of a service that it has announced. */
  async port(kind: string): Promise<number> {
    const line = new RegExp(`^wasmguard: (?:\\S+ )?${kind} \\S+:(\\d+)$`, "m");
    const match = await waitFor(
      `${kind} to be announced`,
      () => line.exec(this.err) ?? (this.code !== null ? ["", "0"] : null),
      15_000,
    );
    assert.notEqual(match[1], "0", `it ended with ${this.code}: ${this.err}`);
    return Number(match[1]);
  }

  /** By its id: Deno's kill() would make the signal the reason of the end. */
  signal(name: NodeJS.Signals): void {
    process.kill(this.child.pid!, name);
  }

  async ended(): Promise<number> {
    await waitFor("the command to end", () => this.code !== null, 15_000);
    return this.code!;
  }
}

const command = suite("wasmguard proxy");
let world: World;
const running: Command[] = [];

command.before(async () => {
  world = await tunnelWorld();
  world.names["origin.test"] = [world.host];
});
command.after(async () => {
  for (const each of running) if (each.code === null) each.signal("SIGKILL");
  await world.close();
});

function start(args: string[], env?: Record<string, string>): Command {
  const started = new Command(args, env);
  running.push(started);
  return started;
}

command("curl through SOCKS5 and HTTP; a reload; Ctrl-C", async () => {
  const { port } = await world.http((_, res) => res.end("inside"));
  const path = world.file(world.conf(), "wg0.conf");
  const proxy = start([path, "--socks5", "0", "--http", "bob:secret-word@0", "--metrics", "0"]);
  const url = `http://origin.test:${port}/`;
  assert.equal((await curl("--socks5-hostname", `127.0.0.1:${await proxy.port("socks5")}`, url)).out, "inside");
  assert.equal(
    (await curl("--proxy", `http://bob:secret-word@127.0.0.1:${await proxy.port("http")}`, url)).out,
    "inside",
  );
  const health = `http://127.0.0.1:${await proxy.port("metrics")}`;
  assert.equal((await curl("-o", "/dev/null", "-w", "%{http_code}", `${health}/readyz`)).out, "200");
  assert.match(
    (await curl(`${health}/metrics`)).out,
    /^wireguard_latest_handshake_seconds\{interface="wg0",.*\} [1-9]\d+$/m,
  );

  const stream = new Raw(await proxy.port("socks5"));
  stream.send([5, 1, 0, 5, 1, 0, 3, 11, ...Buffer.from("origin.test"), port >> 8, port & 255]);
  await stream.read(12);
  // The file is watched; a signal does the same.
  writeFileSync(path, `${world.conf()}[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = origin.test:${port}\n`);
  // Without LOG_LEVEL, which Deno may not read here, only errors are told.
  await waitFor("the reload", () => /^\(proxy\).*forward on 127.0.0.1:0.*at 127.0.0.1:\d+$/m.test(proxy.err) || isDeno);
  writeFileSync(path, "[Interface]\nPrivateKey = secret-word-that-is-no-key\n");
  proxy.signal("SIGHUP");
  await waitFor("its refusal", () =>
    /Not reloaded, the old configuration goes on: .*wg0.conf: line 2: PrivateKey/.test(proxy.err),
  );
  stream.send(`GET / HTTP/1.0\r\n\r\n`);
  assert.ok((await stream.rest()).toString().endsWith("inside"), "the stream went on");
  stream.close();
  proxy.signal("SIGINT");
  assert.equal(await proxy.ended(), 0);
  assert.ok(!proxy.err.includes("secret-word"), proxy.err);
  assert.equal(proxy.out.length, 0);
});

command("as ssh's ProxyCommand: standard output has the stream alone", async () => {
  const port = await world.serve((socket) => {
    socket.write("SSH-2.0-test\r\n");
    socket.pipe(socket);
  });
  const conf = `${world.conf()}[STDIOTunnel]\nTarget = origin.test:${port}\n`;
  const proxy = start([world.file(conf)]);
  const data = Buffer.alloc(1 << 20, "a long command ");
  proxy.child.stdin!.write(data);
  await waitFor("everything", () => proxy.out.length === data.length + 14, 15_000);
  proxy.child.stdin!.end();
  assert.equal(await proxy.ended(), 0);
  assert.equal(proxy.out.equals(Buffer.concat([Buffer.from("SSH-2.0-test\r\n"), data])), true);
});

command("wrong usage is 2, what the system or a file refuses is 1, with the reason", async () => {
  const taken = createServer();
  const port = await new Promise<number>((resolve) => {
    taken.listen(0, "127.0.0.1", () => resolve((taken.address() as { port: number }).port));
  });
  const good = world.file(world.conf());
  const bad = world.file(`${world.conf()}[Socks5]\nBindAddress = x\n`);
  const cases: [string[], number, RegExp][] = [
    [[], 2, /name a file, as in: wasmguard proxy/],
    [[good, "--socks5", "user:hidden@x"], 2, /--socks5: "x" has no port/],
    [[good, "--forward", "1"], 2, /--forward: "1" is not LOCAL=REMOTE/],
    [["--http", "0", good, bad], 2, /services come after the file/],
    [[good, "--max-clients", "0"], 2, /--max-clients 0/],
    [[good, "--nonsense"], 2, /--nonsense/],
    [[good], 1, /no service: give an option/],
    [[good, "--socks5", String(port)], 1, /Cannot listen on 127.0.0.1:\d+: the address is in use/],
    [[bad], 1, /line \d+: BindAddress: "x" has no port/],
    [[join(world.folder, "none.conf"), "--socks5", "0"], 1, /Cannot read .*none.conf: there is no such file/],
    [[bad, "--check"], 1, /BindAddress/],
    [[good, "--http", "0", "--check"], 0, /^$/],
  ];
  for (const [args, code, reason] of cases) {
    const proxy = start(args);
    assert.equal(await proxy.ended(), code, `${args}: ${proxy.err}`);
    assert.match(proxy.err.replace(/^\(proxy\).*\n/gm, "").trim(), reason);
    assert.ok(!proxy.err.includes("hidden"), proxy.err);
  }
  taken.close();
});

command("variables of the environment", async () => {
  const { port } = await world.http((_, res) => res.end("inside"));
  const conf = `${world.conf()}[http]\nBindAddress = 127.0.0.1:0\nUsername = bob\nPassword = $PROXY_WORD\n`;
  const path = world.file(conf);
  const proxy = start([path], { PROXY_WORD: "from-outside" });
  if (isDeno) {
    // Not allowed to be read: the same as not set, and no question is asked.
    assert.equal(await proxy.ended(), 1);
    return assert.match(proxy.err, /Password: the environment variable PROXY_WORD is not set/);
  }
  const at = await proxy.port("http");
  assert.equal(
    (await curl("--proxy", `http://bob:from-outside@127.0.0.1:${at}`, `http://origin.test:${port}/`)).out,
    "inside",
  );
  proxy.signal("SIGTERM");
  assert.equal(await proxy.ended(), 0);
});

command.run();
