// --keylog and --pcap: what we write, tshark decrypts, and our own decode says the same.

import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../helpers/netlab.ts";
import { type Implementation, onRuntime } from "../helpers/peers.ts";
import { INNER, newPresharedKey, OUTER, PORT, type Side, systemSuite, tunnel } from "../helpers/system.ts";

const PINGS = 3;

function recording(ours: Implementation, ...options: string[]): Implementation {
  return { name: ours.name, command: [...ours.command, ...options] };
}

/** Inner addresses of every echo that tshark decrypts, in order of time: two threads write, and either may be first. */
async function echoes(side: Side, file: string, options = ""): Promise<string[]> {
  const fields = "-T fields -E separator=/s -e frame.time_epoch -e ip.src -e icmp.type";
  // Wireshark knows another protocol by this port.
  const lines = await side.namespace.run(`tshark -r ${file} -d udp.port==${PORT.b},wg ${options} -Y wg&&icmp ${fields}`);
  return lines.split("\n").filter(Boolean).sort().map((line) => line.replace(/^\S+ /, ""));
}

// Inner after outer, as tshark lists them; type 8 is a request, 0 its reply.
const [a, b] = [INNER.a[4], INNER.b[4]];
const wanted = Array.from({ length: PINGS }, () => [`${OUTER.a[4]},${a} 8`, `${OUTER.b[4]},${b} 0`]).flat();

systemSuite("capture", (test) => {
  for (const role of ["a", "b"] as const) {
    test(`a capture with its keys inside, as ${role === "a" ? "initiator" : "responder"}`, async ({ ours, theirs, lab }) => {
      const file = join(lab.folder, "wg.pcapng");
      const keyLog = join(lab.folder, "keys");
      const recorder = recording(ours, "--pcap", file, "--keylog", keyLog);
      const sides = role === "a" ? { a: recorder, b: theirs } : { a: theirs, b: recorder };
      const pair = await tunnel(lab, sides, { knows: "a", presharedKey: newPresharedKey() });
      await pair.a.namespace.run(`ping -n -c ${PINGS} -i 0.1 -W 1 ${b}`);
      const recorded = pair[role];
      await until("all of it on disk", async () => (await echoes(recorded, file)).length >= wanted.length);
      assert.deepEqual(await echoes(recorded, file), wanted);
      for (const path of [file, keyLog]) assert.equal(statSync(path).mode & 0o777, 0o600, path);
      assert.match(recorded.daemon.output(), /WARNING: writing secret keys to .*wg\.pcapng/);

      // What somebody else captured, with the key log alone.
      const lines = readFileSync(keyLog, "utf8");
      assert.match(lines, /^LOCAL_STATIC_PRIVATE_KEY = \S{44}\nREMOTE_STATIC_PUBLIC_KEY = \S{44}\nLOCAL_EPHEMERAL_PRIVATE_KEY = \S{44}\nPRESHARED_KEY = \S{44}\n$/);

      const [runtime] = ours.command;
      const decode = onRuntime(runtime).command.concat("decode", file, "--json");
      const messages = (await recorded.namespace.run(decode)).trim().split("\n").map((line) => JSON.parse(line));
      assert.deepEqual(messages.flatMap(({ notes }) => notes), [], "nothing is left unread");
      assert.deepEqual(messages.slice(0, 2).map(({ type }) => type), ["initiation", "response"]);
      const data = messages.filter(({ type }) => type === "data").sort((one, other) => (one.time < other.time ? -1 : 1));
      const pings = data.map(({ fields }) => fields.find(({ name }: { name: string }) => name === "packet").value);
      assert.deepEqual(pings, Array.from({ length: PINGS }, () => [
        `96 bytes from the initiator, IPv4 ${a} > ${b} ICMP, 84 bytes`, `96 bytes from the responder, IPv4 ${b} > ${a} ICMP, 84 bytes`,
      ]).flat());
      for (const { fields } of messages) for (const { name, valid } of fields) assert.ok(valid !== false, `${name} is wrong`);
    });
  }

  test("the key log opens what tcpdump captured", async ({ ours, theirs, lab }) => {
    const keyLog = join(lab.folder, "keys");
    const file = join(lab.folder, "dump.pcap");
    const pair = await tunnel(lab, { a: recording(ours, "--keylog", keyLog), b: theirs }, { knows: "a" });
    const dump = pair.a.namespace.start(`tcpdump -U -i veth-a -w ${file} udp port ${PORT.b}`);
    await until("tcpdump to listen", () => dump.output().includes("listening"));
    await pair.a.namespace.run(`ping -n -c ${PINGS} -i 0.1 -W 1 ${b}`);
    await until("tcpdump to write", async () => (await echoes(pair.a, file, `-o wg.keylog_file:${keyLog}`)).length >= wanted.length);
    await dump.stop();
    assert.deepEqual(await echoes(pair.a, file, `-o wg.keylog_file:${keyLog}`), wanted);
  });

  test("a file that others may read is refused, and so is one that cannot be", async ({ ours, lab }) => {
    const open = join(lab.folder, "open");
    writeFileSync(open, "", { mode: 0o644 });
    const namespace = lab.namespace("a");
    for (const [path, reason] of [[open, /others may read it \(mode 644\)/], [join(lab.folder, "no/such"), /no such file/]] as const) {
      const { code, stderr } = await namespace.try([...ours.command, "-f", "--pcap", path, lab.interfaceName("x")]);
      assert.equal(code, 1, stderr);
      assert.match(stderr, reason);
    }
  });
});
