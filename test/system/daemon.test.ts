// The contract of the command: when it returns and when it ends, what it leaves behind (nothing), what it says when it
// cannot, and wg-quick on top of it.

import assert from "node:assert";
import { existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import process from "node:process";
import { type Lab, type Namespace, isRunning, sleep, until } from "../helpers/netlab.ts";
import { type Implementation, long } from "../helpers/peers.ts";
import {
  INNER, LINK, OUTER, PORT, Side, answers, bringUp, endpoint, host, newKeys, socketPath, systemSuite, tunnel,
} from "../helpers/system.ts";

const ROUNDS = long ? 100 : 20;

/** Processes that have the interface's name as an argument. */
function daemonsOf(name: string): number[] {
  const pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  return pids.map(Number).filter((pid) => {
    try {
      return isRunning(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(name);
    } catch {
      return false; // it ended while we looked
    }
  });
}

function hasLink(namespace: Namespace, name: string): boolean {
  return namespace.ip("-o link show").includes(` ${name}:`);
}

/** No process, no socket, no interface. */
async function assertGone(namespace: Namespace, name: string): Promise<void> {
  await until(`${name} to be gone`, () => daemonsOf(name).length === 0 && !existsSync(socketPath(name)));
  assert.equal(hasLink(namespace, name), false, `interface ${name} is still there`);
}

/** Runs the command as a shell would, in the background way. @returns the daemon's process id */
async function launch(ours: Implementation, namespace: Namespace, name: string): Promise<number> {
  await namespace.run([...ours.command, name], { timeoutMs: 15_000 });
  assert.ok(await answers(name), "the socket answers when the command returns");
  const pids = daemonsOf(name);
  assert.equal(pids.length, 1, `one process of it runs, not ${pids.length}`);
  return pids[0];
}

/** An ending of the command that is no success: one line, not a stack. */
function assertOneLine(output: { code: number; stdout: string; stderr: string }, code: number, pattern: RegExp): void {
  assert.equal(output.code, code, output.stdout + output.stderr);
  assert.match(output.stderr, pattern);
  assert.equal(output.stderr.trim().split("\n").length, 1, output.stderr);
}

systemSuite("daemon", (test) => {
  test("returns when the socket answers; ends when the interface is deleted", async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    const name = lab.interfaceName("d");
    await launch(ours, namespace, name);
    assert.match(await namespace.run(`wg show ${name}`), new RegExp(`^interface: ${name}`));
    namespace.ip(`link del ${name}`);
    await assertGone(namespace, name);
  });

  test("ends when its socket is removed", async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    const name = lab.interfaceName("d");
    await launch(ours, namespace, name);
    rmSync(socketPath(name));
    await assertGone(namespace, name);
  });

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    test(`ends by ${signal}, in both grounds, idle and under traffic`, async ({ ours, theirs, lab }) => {
      const namespace = lab.namespace("x");
      const name = lab.interfaceName("d");
      const pid = await launch(ours, namespace, name);
      process.kill(pid, signal);
      await assertGone(namespace, name);

      const { a, b } = await tunnel(lab, { a: ours, b: theirs });
      await a.ping(INNER.b[4]);
      b.namespace.start(`ping -n -f -i 0.002 ${INNER.a[4]}`);
      a.namespace.start(`ping -n -f -i 0.002 ${INNER.b[4]}`);
      await sleep(200);
      a.daemon.signal(signal);
      assert.equal(await a.daemon.ended(), 0, a.daemon.output());
      await assertGone(a.namespace, a.name);
    });
  }

  test("-f, --foreground and WG_PROCESS_FOREGROUND=1 stay", async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    for (const flag of ["-f", "--foreground", null]) {
      const name = lab.interfaceName("d");
      const [flags, env] = flag ? [[flag], {}] : [[], { WG_PROCESS_FOREGROUND: "1" } as Record<string, string>];
      const daemon = namespace.start([...ours.command, ...flags, name], env);
      await until("the socket", () => answers(name), 15_000);
      assert.equal(daemon.code, null);
      assert.deepEqual(daemonsOf(name), [daemon.pid]);
      await daemon.stop();
      await assertGone(namespace, name);
    }
  });

  test(`started and stopped ${ROUNDS} times it leaves nothing behind`, async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    const name = lab.interfaceName("d");
    const stops = [
      (pid: number) => void process.kill(pid, "SIGTERM"),
      () => void namespace.ip(`link del ${name}`),
      () => rmSync(socketPath(name)),
      (pid: number) => void process.kill(pid, "SIGINT"),
    ];
    for (let i = 0; i < ROUNDS; i++) {
      const pid = await launch(ours, namespace, name);
      await namespace.run(`wg set ${name} listen-port 7000 private-key ${lab.file(newKeys().privateKey + "\n")}`);
      namespace.ip(`link set ${name} up`);
      stops[i % stops.length](pid);
      await assertGone(namespace, name);
    }
    assert.equal(await namespace.run("ss -H -u -a -n"), "", "no UDP socket is left");
    assert.match(namespace.ip("-o link show"), /^1: lo:[^\n]*\n$/);
  }, ROUNDS * 5000);

  test("a taken name, a name too long, no name: one line", async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    const name = lab.interfaceName("d");
    await launch(ours, namespace, name);
    assertOneLine(await namespace.try([...ours.command, name]), 1, new RegExp(name));
    assertOneLine(await namespace.try([...ours.command, "-f", name]), 1, new RegExp(name));
    assert.ok(await answers(name), "the first one goes on");
    namespace.ip(`link del ${name}`);
    await assertGone(namespace, name);

    lab.connect([namespace, "taken", "10.1.1.1/24"], [namespace, "other"]);
    assertOneLine(await namespace.try([...ours.command, "-f", "taken"]), 1, /taken/);
    assert.equal(existsSync(socketPath("taken")), false);
    for (const wrong of [["-f", "x".repeat(16)], ["-f", "a/b"], ["--nonsense"], []]) {
      const output = await namespace.try([...ours.command, ...wrong]);
      assert.equal(output.code, 2, output.stderr);
    }
  });

  test("a stale socket of a killed daemon is no obstacle", async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    const name = lab.interfaceName("d");
    const pid = await launch(ours, namespace, name);
    process.kill(pid, "SIGKILL");
    await until("its end", () => !isRunning(pid));
    assert.ok(existsSync(socketPath(name)));
    await launch(ours, namespace, name);
    namespace.ip(`link del ${name}`);
    await assertGone(namespace, name);
  });

  test("without CAP_NET_ADMIN: one line", async ({ ours, lab }) => {
    const namespace = lab.namespace("a");
    const name = lab.interfaceName("d");
    const drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    for (const flags of [["-f"], []]) {
      assertOneLine(await namespace.try([...drop, ...ours.command, ...flags, name]), 1, /root|CAP_NET_ADMIN/);
      await assertGone(namespace, name);
    }
  });

  test("a busy port is refused, and the old one goes on", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    const other = await Side.start(a.namespace, "c", theirs);
    await other.set("listen-port 5555");
    a.namespace.ip(`link set ${other.name} up`);
    const refused = await a.namespace.try(`wg set ${a.name} listen-port 5555`);
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /Address already in use/);
    assert.equal(await a.show("listen-port"), String(PORT.a));
    await a.ping(INNER.b[4]);
    await b.ping(INNER.a[4]);
  });

  test("down, up, renamed: traffic comes back", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    a.namespace.ip(`link set ${a.name} down`);
    assert.equal(await b.pings(INNER.a[4]), false);
    a.namespace.ip(`link set ${a.name} up`);
    await a.pingSoon(INNER.b[4]);
    a.namespace.ip(`link set ${a.name} name renamed0`);
    await a.ping(INNER.b[4]);
    assert.equal((await a.peer(b)).publicKey, b.keys.publicKey, "the socket keeps its name");
    a.namespace.ip("link del renamed0");
    await a.daemon.ended();
    await assertGone(a.namespace, a.name);
  });

  test("the interface moves to another namespace; that is removed", async ({ ours, theirs, lab }) => {
    const wire = lab.namespace("w");
    const homes = { a: lab.namespace("a"), b: lab.namespace("b") };
    const sides = { a: await Side.start(wire, "a", ours), b: await Side.start(wire, "b", theirs) };
    for (const [id, other] of [["a", "b"], ["b", "a"]] as const) {
      const side = sides[id];
      wire.ip(`link set ${side.name} netns ${homes[id].name}`);
      await side.set(
        `private-key ${side.file(side.keys.privateKey)} listen-port ${PORT[id]} peer ${sides[other].keys.publicKey} ` +
          `allowed-ips ${host(INNER[other][4])} endpoint 127.0.0.1:${PORT[other]}`,
      );
      homes[id].ip(`link set ${side.name} up`);
      homes[id].addresses(side.name, `${INNER[id][4]}/24`);
    }
    await homes.a.run(`ping -n -c 3 -i 0.2 -w 9 ${INNER.b[4]}`);
    await homes.b.run(`ping -n -c 1 -W 2 ${INNER.a[4]}`);
    assert.equal((await sides.b.peer(sides.a)).endpoint, endpoint("127.0.0.1", PORT.a));
    homes.a.ip("link set lo down");
    await wire.run(["ip", "netns", "del", homes.a.name]);
    await sides.a.daemon.ended(10_000);
    assert.equal(existsSync(socketPath(sides.a.name)), false);
    assert.equal(sides.b.daemon.code, null);
  });
});

systemSuite("wg-quick", (test) => {
  /** A script, as wg-quick wants one word. */
  function wrapper(lab: Lab, { command }: Implementation): string {
    return lab.file(`#!/bin/sh\nexec ${command.map((word) => `'${word}'`).join(" ")} "$@"\n`, "implementation", 0o700);
  }

  for (const allowed of ["192.168.241.0/24, fd00:aa::/64", "0.0.0.0/0, ::/0"]) {
    test(`up and down, AllowedIPs ${allowed}`, async ({ ours, theirs, lab }) => {
      const namespace = lab.namespace("a");
      const far = lab.namespace("b");
      lab.connect([namespace, LINK.a, `${OUTER.a[4]}/24`], [far, LINK.b, `${OUTER.b[4]}/24`]);
      const b = await Side.start(far, "b", theirs);
      const keys = newKeys();
      await b.set(
        `private-key ${b.file(b.keys.privateKey)} listen-port ${PORT.b} peer ${keys.publicKey} ` +
          `allowed-ips ${host(INNER.a[4])},${host(INNER.a[6])}`,
      );
      bringUp(b, "b");
      b.namespace.addresses("lo", "203.0.113.9/32");
      const name = lab.interfaceName("q");
      const config = lab.file(
        `[Interface]\nPrivateKey = ${keys.privateKey}\nAddress = ${INNER.a[4]}/24, ${INNER.a[6]}/64\nMTU = 1400\n` +
          `PostUp = touch ${lab.folder}/post-up-%i\n` +
          `[Peer]\nPublicKey = ${b.keys.publicKey}\nAllowedIPs = ${allowed}\n` +
          `Endpoint = ${endpoint(OUTER.b[4], PORT.b)}\n`,
        `${name}.conf`,
      );
      const env = { WG_QUICK_USERSPACE_IMPLEMENTATION: wrapper(lab, ours) };
      for (let round = 0; round < 2; round++) {
        await namespace.run(`wg-quick up ${config}`, { env });
        assert.equal(daemonsOf(name).length, 1, "ours runs, not the kernel's own WireGuard");
        assert.ok(existsSync(`${lab.folder}/post-up-${name}`));
        assert.match(namespace.ip(`link show ${name}`), / mtu 1400 /);
        await namespace.run(`ping -n -c 1 -W 2 ${INNER.b[4]}`);
        await namespace.run(`ping -n -c 1 -W 2 ${INNER.b[6]}`);
        if (allowed.startsWith("0")) await namespace.run("ping -n -c 1 -W 2 203.0.113.9");
        assert.match(await namespace.run(`wg show ${name}`), /latest handshake/);
        await namespace.run(`wg syncconf ${name} ${lab.file(await namespace.run(`wg-quick strip ${config}`))}`);
        assert.ok((await namespace.run(`wg showconf ${name}`)).includes(b.keys.publicKey));
        await namespace.run(`wg-quick down ${config}`, { env });
        await assertGone(namespace, name);
        assert.equal(await namespace.run("nft list ruleset"), "", "wg-quick took its rules away");
      }
    });
  }

  test("wasmguard show prints what wg show prints", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { presharedKey: newKeys().privateKey });
    await a.ping(INNER.b[4]);
    const command = ours.command;
    const steady = (text: string): string[] => {
      // What we say after it, of refused packets, is ours alone.
      const lines = text.split("refused packets:")[0].split("\n").map((line) => line.trim());
      return lines.filter((line) => line && !/^(latest handshake|transfer)/.test(line)).sort();
    };
    for (const side of [a, b]) {
      const theirText = await side.namespace.run(`wg show ${side.name}`);
      assert.deepEqual(steady(await side.namespace.run([...command, "show", side.name])), steady(theirText));
    }
    const json = JSON.parse(await a.namespace.run([...command, "show", a.name, "--json"]));
    assert.equal(json.name, a.name);
    assert.equal(json.publicKey, a.keys.publicKey);
    assert.equal(json.peers[0].publicKey, b.keys.publicKey);
    assert.ok(json.peers[0].latestHandshake > 0);
    assert.equal(JSON.stringify(json).includes(a.keys.privateKey), false, "no secret");
  });
});
