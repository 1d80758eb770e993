// The conformance checks, real: ours passes those that take no longer than some seconds, broken ones fail exactly where
// they must, a peer somewhere is tried by the wire alone, and nothing is left behind. All mutants: npm run conform --
// --mutants. What wireguard-go does otherwise is told in docs/conformance.md.

import assert from "node:assert";
import { execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { conform, MUTANTS, type Report, tryMutant } from "../../build/mutants.mjs";
import { sleep, until } from "../helpers/netlab.ts";
import { CLI, long } from "../helpers/peers.ts";
import { newKeys, newPresharedKey, Side, systemSuite } from "../helpers/system.ts";

const judge = (): string[] => [process.execPath, ...("Deno" in globalThis ? ["run", "-A"] : []), CLI, "conform"];
const failed = ({ checks }: Report): string[] =>
  checks.filter(({ outcome }) => outcome === "fail").map(({ id, seen }) => `${id}: ${seen}`);

/** Namespaces of laboratories whose process is gone. */
function leftovers(pid: number): string[] {
  return execFileSync("ip", ["netns", "list"], { encoding: "utf8" })
    .split("\n")
    .filter((name) => name.startsWith(`wgconform-${pid}-`));
}

/** Broken in ways that quick checks see, with the checks to run. */
const SOME: [name: string, only: string][] = [
  ["mac1 is not checked", "initiation,answer.mac1,-rate"],
  ["the window has no end", "window"],
  ["data does not move the endpoint", "roaming"],
  ["update_only is not looked at", "uapi.update,uapi.get,uapi.counters"],
];

systemSuite("conform", (test) => {
  test("ours passes every check that takes no longer than some seconds", async ({ ours }) => {
    const report = await conform(`${ours.command.join(" ")} -f {iface}`, ["--quick"]);
    assert.deepEqual(failed(report), []);
    assert.ok(report.passed >= 95, `${report.passed} passed, ${report.skipped} skipped`);
  }, 120_000);

  for (const [name, only] of SOME) {
    test(`turns red where it must: ${name}`, async () => {
      const mutant = MUTANTS.find((each) => each.name === name);
      assert.ok(mutant, name);
      const { failed } = await tryMutant(mutant, ["--only", only]);
      assert.deepEqual(failed.sort(), mutant.fails.filter((id) => !id.startsWith("cookie")).sort());
    });
  }

  test("a peer somewhere, by the wire and an address in the tunnel", async ({ ours, lab }) => {
    const [a, b] = [lab.namespace("a"), lab.namespace("b")];
    lab.connect([a, "veth-a", "10.0.0.1/24"], [b, "veth-b", "10.0.0.2/24"]);
    const side = await Side.start(a, "a", ours);
    const us = newKeys();
    const psk = newPresharedKey();
    await side.set(
      `private-key ${side.file(side.keys.privateKey)} listen-port 1001 peer ${us.publicKey} ` +
        `preshared-key ${side.file(psk)} allowed-ips 10.5.0.2/32`,
    );
    a.ip(`link set ${side.name} up`);
    a.addresses(side.name, "10.5.0.1/24");
    const options = [
      "--peer",
      "10.0.0.1:1001",
      "--key",
      side.keys.publicKey,
      "--private-key",
      side.file(us.privateKey),
    ];
    const tunnel = ["--psk", side.file(psk), "--source", "10.5.0.2", "--target", "10.5.0.1", "--listen", "1002"];
    const only = ["--only", "initiation,window.replay,roaming.data,roaming.forged,junk.session"];
    const { code, stdout, stderr } = await b.try([...judge(), ...options, ...tunnel, ...only, "--tap"], {
      timeoutMs: 50_000,
    });
    assert.equal(code, 0, stdout + stderr);
    assert.match(stdout, /^TAP version 14\n1\.\.\d+\n/);
    assert.match(stdout, /^ok \d+ - window\.replay: takes a packet once$/m);
    assert.match(stdout, /^ok \d+ - roaming\.forged: .* # SKIP needs the peer's system/m);
    // Without a right preshared key no response opens: a failure, not a silence.
    const wrong = await b.try([...judge(), ...options, "--only", "initiation.answered"], { timeoutMs: 20_000 });
    assert.equal(wrong.code, 1, wrong.stdout + wrong.stderr);
    assert.match(wrong.stdout, /^FAIL initiation\.answered .*[^]*the response does not open/m);
  });

  test("a command that does not come up is told with its last words, and nothing stays", async () => {
    const child = spawn(judge()[0], [...judge().slice(1), "--command", "echo no such thing {iface}; exit 3"]);
    let text = "";
    child.stderr.on("data", (part) => (text += part));
    const code = await new Promise((resolve) => child.once("close", resolve));
    assert.equal(code, 1, text);
    assert.match(text, /Cannot start echo no such thing wgc\w+; exit 3: it ended\nno such thing wgc/);
    assert.deepEqual(leftovers(child.pid!), []);
  });

  test("ended in the middle, it removes namespaces, daemon and socket", async ({ ours }) => {
    const child = spawn(
      judge()[0],
      [...judge().slice(1), "--command", `${ours.command.join(" ")} -f {iface}`, "--only", "timers"],
      { stdio: "ignore" },
    );
    const ended = new Promise((resolve) => child.once("close", resolve));
    const socket = `/var/run/wireguard/wgc${child.pid!.toString(36)}.sock`;
    await until("the daemon's socket", () => existsSync(socket), 20_000);
    await sleep(1500);
    child.kill("SIGTERM");
    await ended;
    assert.deepEqual(leftovers(child.pid!), []);
    assert.equal(existsSync(socket), false);
  });

  if (long) {
    test("wireguard-go does otherwise where docs/conformance.md says so, and nowhere else", async ({ theirs }) => {
      const report = await conform(`${theirs.command.join(" ")} -f {iface}`);
      const known = /^(response\.source|timers\.keepalive-repeats|uapi\.private-key-zero): /;
      assert.deepEqual(
        failed(report).filter((line) => !known.test(line)),
        [],
      );
    }, 180_000);
  }
});
