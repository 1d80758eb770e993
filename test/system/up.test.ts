// wasmguard up and down in namespaces, with a wireguard-go behind them: that the tunnel works, that the state of the
// system is the one that the real wg-quick makes of the same file, and that nothing is left behind, whatever fails.

import assert from "node:assert";
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { isRunning, type Namespace, sleep, until } from "../helpers/netlab.ts";
import { BEYOND, command, configure, type Lines, ping, type Site, site, succeed } from "../helpers/quick.ts";
import { INNER, LINK, newKeys, newPresharedKey, OUTER, PORT, socketPath, systemSuite } from "../helpers/system.ts";

/** Everything that up changes. Without link-local addresses: the kernel draws them, later. */
async function look(namespace: Namespace): Promise<Record<string, string[]>> {
  const lines = (text: string, shown = (line: string): string => line): string[] =>
    text.split("\n").filter((line) => line.trim() !== "" && !/fe80:|ff00::/.test(line)).map((line) =>
      shown(line.trim())
    ).sort();
  const ask = (line: string, shown?: (line: string) => string): string[] => lines(namespace.ip(line), shown);
  return {
    links: ask(
      "-o link show",
      (line) => `${/^\d+: ([^:@]+)/.exec(line)![1]} ${/mtu \d+/.exec(line)![0]} ${/<.*?>/.exec(line)![0]}`,
    ),
    addresses: ask("-o address show", (line) => line.replace(/^\d+: /, "").replace(/\s+/g, " ")),
    routes4: ask("-4 route show table all"),
    routes6: ask("-6 route show table all"),
    rules4: ask("-4 rule show"),
    rules6: ask("-6 rule show"),
    firewall: lines(await namespace.run("nft list ruleset")),
  };
}

/** Processes that hold the interface: they were started with its file. */
function processesOf(file: string): number[] {
  return readdirSync("/proc").filter((entry) => /^\d+$/.test(entry)).map(Number).filter((pid) => {
    try {
      return isRunning(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(file);
    } catch {
      return false;
    }
  });
}

/** No process, no socket, no note, no draft; the system as it was. */
async function assertGone({ here, name, lab }: Site, file: string, before: Record<string, string[]>): Promise<void> {
  await until("the processes to end", () => processesOf(file).length === 0);
  assert.equal(existsSync(socketPath(name)), false, "its socket");
  assert.deepEqual(readdirSync(dirname(socketPath(name))).filter((entry) => entry.startsWith(name)), []);
  assert.deepEqual(readdirSync(lab.folder).filter((entry) => entry.endsWith(".tmp")), []);
  assert.deepEqual(await look(here), before);
}

systemSuite("up and down", (test) => {
  test("without wg and wg-quick: the tunnel works, and nothing is left", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const bin = join(lab.folder, "bin");
    mkdirSync(bin);
    const needed = ["ip", "nft", "bash", "node", "env", "ping"];
    for (const program of needed) {
      symlinkSync(execFileSync("sh", ["-c", `command -v ${program}`], { encoding: "utf8" }).trim(), join(bin, program));
    }
    const before = await look(place.here);
    const file = configure(place, {
      interface: `Address = ${INNER.a[4]}/24, ${INNER.a[6]}/64\nPreUp = ! command -v wg wg-quick wireguard-go`,
    });
    const { stdout, stderr } = await succeed(place, ["up", file], { PATH: bin });
    assert.equal(stdout, "");
    assert.match(stderr, new RegExp(`^\\[#\\] ip link set mtu 1420 up dev ${place.name}$`, "m"));
    assert.equal(processesOf(file).length, 1);
    await ping(place.here, INNER.b[4]);
    await ping(place.here, INNER.b[6]);
    assert.match((await command(place, ["up", file])).stderr, new RegExp(`wasmguard: ${place.name} already exists\n$`));
    await succeed(place, ["down", file], { PATH: bin });
    await assertGone(place, file, before);
    assert.match((await command(place, ["down", file])).stderr, /is not a WireGuard interface that runs here\n$/);
  });

  test("a default route of both families: all through the tunnel but the tunnel itself", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const before = await look(place.here);
    const file = configure(place, { allowedIps: "0.0.0.0/0, ::/0" });
    await succeed(place, ["up", file]);
    await ping(place.here, BEYOND[4]);
    await ping(place.here, BEYOND[6]);
    assert.equal(await place.here.run(`wg show ${place.name} fwmark`), "0xca6c");
    assert.match(place.here.ip(`route get ${BEYOND[4]}`), new RegExp(`dev ${place.name} table 51820`));
    assert.match(place.here.ip(`route get ${OUTER.b[4]}`), new RegExp(`dev ${LINK.a}`));
    await succeed(place, ["down", file]);
    await assertGone(place, file, before);
  });

  const files: [string, Lines][] = [
    ["addresses and routes", {
      allowedIps: "10.0.0.0/8, 192.168.241.0/24, 203.0.113.0/24, 2001:db8::/32, 198.51.100.1/32",
    }],
    ["default routes", {
      allowedIps: "0.0.0.0/0, ::/0, 10.77.0.0/16",
      interface: "Address = 10.1.0.1/24, 10.1.0.2/32, fd01::1/64",
    }],
    ["only the IPv6 default route, over IPv6", { allowedIps: "::/0", endpoint: `[${OUTER.b[6]}]:${PORT.b}` }],
    ["a mark and an MTU", {
      allowedIps: "0.0.0.0/0",
      interface: "Address = 10.1.0.1/24\nFwMark = 0x77\nMTU = 1300\nListenPort = 7777",
    }],
    ["Table = off", { allowedIps: "0.0.0.0/0, 10.0.0.0/8", interface: "Address = 10.1.0.1/24\nTable = off" }],
    ["a table of its own", {
      allowedIps: "0.0.0.0/0, ::/0, 10.9.0.0/16",
      interface: "Address = 10.1.0.1/24\nTable = 4321",
    }],
    ["the two halves of everything", { allowedIps: "0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1" }],
  ];
  test("the state of the system is the one that wg-quick makes", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const before = await look(place.here);
    for (const [name, lines] of files) {
      const file = configure(place, lines);
      const configuration = async (): Promise<string> =>
        (await place.here.run(`wg showconf ${place.name}`)).replace(
          lines.interface?.includes("ListenPort") ? "" : /ListenPort = \d+\n/,
          "",
        );
      await place.here.run(["wg-quick", "up", file], { env: { WG_QUICK_USERSPACE_IMPLEMENTATION: theirs.command[0] } });
      const wanted = { ...(await look(place.here)), configuration: await configuration() };
      await place.here.run(["wg-quick", "down", file]);
      await until("wireguard-go to end", () => !existsSync(socketPath(place.name)));
      assert.deepEqual(await look(place.here), before, name);
      await succeed(place, ["up", file]);
      assert.deepEqual({ ...(await look(place.here)), configuration: await configuration() }, wanted, name);
      await succeed(place, ["down", file]);
      await assertGone(place, file, before);
    }
  });

  test("wg-quick takes down ours, and we take down wg-quick's", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const before = await look(place.here);
    const file = configure(place, { allowedIps: "0.0.0.0/0, ::/0" });
    await succeed(place, ["up", file]);
    await place.here.run(["wg-quick", "down", file]);
    await until("the socket to go", () => !existsSync(socketPath(place.name)));
    await assertGone(place, file, before);
    await place.here.run(["wg-quick", "up", file], { env: { WG_QUICK_USERSPACE_IMPLEMENTATION: theirs.command[0] } });
    await succeed(place, ["down", file]);
    await assertGone(place, file, before);
  });

  test("hooks run in their order, with the interface's name", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const log = join(lab.folder, "hooks");
    const note = (word: string): string => `echo ${word} %i $(ip -br link show dev %i 2>/dev/null | wc -l) >> ${log}`;
    const file = configure(place, {
      interface: `Address = ${INNER.a[4]}/24\nPostDown = ${note("postdown")}\nPreDown = ${note("predown")}\n` +
        `PreUp = ${note("preup1")}\nPreUp = ${note("preup2")}; echo to standard output\nPostUp = ${
          note("postup")
        }; ping -n -c 1 -w 9 ${INNER.b[4]}`,
    });
    const { stdout } = await succeed(place, ["up", file]);
    assert.equal(stdout, "");
    await succeed(place, ["down", file]);
    const wanted = ["preup1 0", "preup2 0", "postup 1", "predown 1", "postdown 0"];
    assert.deepEqual(
      readFileSync(log, "utf8").trim().split("\n"),
      wanted.map((line) => line.replace(" ", ` ${place.name} `)),
    );
  });

  test("whatever fails on the way up, nothing is left", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const before = await look(place.here);
    const address = `Address = ${INNER.a[4]}/24`;
    const failures: [string, Lines, RegExp][] = [
      ["PreUp", { interface: `${address}\nPreUp = exit 3` }, /"exit 3" ended with 3/],
      [
        "PostUp",
        { interface: `${address}\nPostUp = true\nPostUp = exit 4`, allowedIps: "0.0.0.0/0, ::/0" },
        /"exit 4" ended with 4/,
      ],
      [
        "a route",
        { interface: `${address}\nTable = nosuchtable` },
        /"ip -6 route add .* table nosuchtable" ended with/,
      ],
      ["a port in use", { interface: `${address}\nListenPort = 7000` }, /EADDRINUSE|in use/],
      ["DNS", { interface: `${address}\nDNS = 10.1.0.53`, allowedIps: "0.0.0.0/0" }, /resolvconf/],
      ["a name", { endpoint: "nothing.invalid:51820" }, /Cannot resolve nothing\.invalid: /],
      ["a key", { interface: "PrivateKy = x" }, /line 3: PrivateKy is not a key of \[Interface\]/],
    ];
    const busy = place.here.start([
      "node",
      "-e",
      'require("dgram").createSocket({type:"udp6"}).bind(7000, () => console.log("bound"))',
    ]);
    await until("a port to be taken", () => busy.output().includes("bound"));
    for (const [name, lines, pattern] of failures) {
      if (name === "DNS" && (await place.here.try("which resolvconf resolvectl")).stdout !== "") continue;
      const file = configure(place, lines);
      const { code, stderr } = await command(place, ["up", file], { WG_ENDPOINT_RESOLUTION_RETRIES: "0" });
      assert.equal(code, 1, name);
      assert.match(stderr.trim().split("\n").at(-1)!, pattern, name);
      assert.ok(!stderr.includes(place.keys.privateKey), "no key in an error");
      await assertGone(place, file, before);
    }
  });

  test("a signal takes it down as down would; one on the way up takes all back", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const before = await look(place.here);
    const log = join(lab.folder, "hooks");
    const file = configure(place, {
      allowedIps: "0.0.0.0/0, ::/0",
      interface: `Address = ${INNER.a[4]}/24\nPreDown = echo predown >> ${log}\nPostDown = echo postdown >> ${log}`,
    });
    await succeed(place, ["up", file]);
    process.kill(processesOf(file)[0], "SIGTERM");
    await assertGone(place, file, before);
    const foreground = place.here.start([...ours.command, "up", "--foreground", file], { LOG_LEVEL: "verbose" });
    // Packets pass before the last step is done, and a signal then would be one on the way up.
    await until("the tunnel", () => foreground.output().includes("Ready") || foreground.code !== null, 15_000);
    await place.here.run(`ping -n -c 1 -W 2 ${BEYOND[4]}`);
    foreground.signal("SIGINT");
    assert.equal(await foreground.ended(), 0, foreground.output());
    await assertGone(place, file, before);
    assert.equal(readFileSync(log, "utf8"), "predown\npostdown\n".repeat(2));
    const slow = configure(place, {
      allowedIps: "0.0.0.0/0",
      interface: `Address = ${INNER.a[4]}/24\nPostUp = echo asleep; exec sleep 1234`,
    });
    const starting = place.here.start([...ours.command, "up", slow]);
    await until(
      "the hook",
      () => starting.output().includes("asleep\n[") || starting.output().endsWith("asleep\n"),
      15_000,
    );
    await sleep(100);
    starting.signal("SIGTERM");
    assert.equal(await starting.ended(), 1, starting.output());
    assert.match(starting.output(), /stopped by SIGTERM/);
    await assertGone(place, slow, before);
  });

  test("killed, it leaves rules, and down removes them; another tunnel keeps its own", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    place.here.ip("rule add table main suppress_prefixlength 0 priority 100");
    const before = await look(place.here);
    const file = configure(place, { allowedIps: "0.0.0.0/0, ::/0" });
    await succeed(place, ["up", file]);
    process.kill(processesOf(file)[0], "SIGKILL");
    await until("it to end", () => processesOf(file).length === 0);
    assert.notDeepEqual((await look(place.here)).rules4, before.rules4);
    await succeed(place, ["down", file]);
    const after = await look(place.here);
    assert.equal(after.rules4.length, before.rules4.length);
    assert.deepEqual({ ...after, rules4: [] }, { ...before, rules4: [] });
    assert.equal(existsSync(socketPath(place.name)), false);
    assert.equal((await command(place, ["down", file])).code, 1);
  });

  test("SaveConfig keeps what wg-quick keeps, and what is saved comes up again", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const file = configure(place, {
      interface:
        `Address = ${INNER.a[4]}/24, ${INNER.a[6]}/64\nMTU = 1400\nTable = auto\nSaveConfig = true\nPreUp = true %i\n` +
        "PostUp = true one; true two\nPreDown = true\nPostDown = true",
      allowedIps: "192.168.241.0/24, fd00:aa::/64",
    });
    await succeed(place, ["up", file]);
    await ping(place.here, INNER.b[4]);
    const { publicKey } = newKeys();
    const presharedKey = newPresharedKey();
    await place.here.run(
      `wg set ${place.name} listen-port 7123 peer ${publicKey} preshared-key ${lab.file(presharedKey + "\n")} ` +
        "allowed-ips 10.5.0.0/16,fd05::/64 endpoint 10.0.0.77:7 persistent-keepalive 25",
    );
    place.here.addresses(place.name, "10.66.0.1/16");
    place.here.ip(`link set mtu 1380 dev ${place.name}`);
    const copy = join(lab.folder, "copy");
    mkdirSync(copy, { mode: 0o700 });
    const theirFile = join(copy, `${place.name}.conf`);
    writeFileSync(theirFile, readFileSync(file), { mode: 0o600 });
    await place.here.run(["wg-quick", "save", theirFile]);
    await succeed(place, ["down", file]);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    // The kernel gives a TUN a link-local address, which wg-quick takes for one of the user's.
    const wanted = readFileSync(theirFile, "utf8").replace(/^Address = fe80:.*\n/m, "");
    assert.equal(readFileSync(file, "utf8").trim(), wanted.trim());
    await succeed(place, ["up", file]);
    await ping(place.here, INNER.b[4]);
    const dump = await place.here.run(`wg show ${place.name} dump`);
    assert.ok(dump.includes(`${publicKey}\t${presharedKey}\t10.0.0.77:7\t10.5.0.0/16,fd05::/64\t0\t`), dump);
    await succeed(place, ["down", file]);
    assert.equal(readFileSync(file, "utf8").trim(), wanted.trim());
  });

  test("--netns: the interface there, the socket here", async ({ ours, theirs, lab }) => {
    const place = await site(lab, ours, theirs);
    const inside = lab.namespace("n");
    const [before, insideBefore] = [await look(place.here), await look(inside)];
    const resolver = `/etc/netns/${inside.name}/resolv.conf`;
    const log = join(lab.folder, "hooks");
    const file = configure(place, {
      interface: `Address = ${INNER.a[4]}/24, ${INNER.a[6]}/64\nDNS = ${
        BEYOND[4]
      }, corp.example\nPostUp = cat /etc/resolv.conf > ${log}; ip -br link show %i >> ${log}`,
      allowedIps: "0.0.0.0/0, ::/0",
    });
    await succeed(place, ["up", "--netns", inside.name, file]);
    await ping(inside, BEYOND[4]);
    await ping(inside, BEYOND[6]);
    assert.match(readFileSync(log, "utf8"), new RegExp(`nameserver ${BEYOND[4]}\nsearch corp.example\n${place.name} `));
    const { links: _, ...hereNow } = await look(place.here);
    const { links: __, ...hereBefore } = before;
    assert.deepEqual(hereNow, hereBefore, "nothing changed here");
    assert.equal(place.here.ip("-br link show").includes(place.name), false);
    const port = await place.here.run(`wg show ${place.name} listen-port`);
    assert.match(await place.here.run("ss -H -uan"), new RegExp(`:${port} `));
    assert.equal(await inside.run("ss -H -uan"), "", "no socket in there");
    await succeed(place, ["down", file]);
    await assertGone(place, file, before);
    assert.deepEqual(await look(inside), insideBefore);
    assert.equal(existsSync(resolver), false);
    await succeed(place, ["up", "--netns", inside.name, file]);
    process.kill(processesOf(file)[0], "SIGTERM");
    await assertGone(place, file, before);
    assert.deepEqual(await look(inside), insideBefore);
    const failing = configure(place, { interface: "Address = 10.9.9.9/32\nPostUp = exit 5" });
    assert.match(
      (await command(place, ["up", "--netns", inside.name, failing])).stderr,
      /^wasmguard: "exit 5" ended with 5$/m,
    );
    await assertGone(place, file, before);
    assert.deepEqual(await look(inside), insideBefore);
    const output = await command(place, ["up", "--netns", "nosuchplace", file]);
    assert.match(output.stderr, /There is no network namespace "nosuchplace"/);
  });
});
