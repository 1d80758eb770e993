// The conformance checks without a peer: what is chosen, what is printed, what is refused; and that each mutant of
// build/mutants.mjs still finds the text that it changes. The checks themselves run in test/system/conform.test.ts.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createSocket } from "node:dgram";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import process from "node:process";
import { suite } from "uvu";
import { checkTable, MUTANTS } from "../../build/mutants.mjs";
import { Deviation, mustBeWithin, Unable } from "../../host/conform/check.ts";
import { CHECKS, choose } from "../../host/conform/checks/index.ts";
import { echoPacket, innerLength, readEcho, sameAddress } from "../../host/conform/inner.ts";
import { DH_PUBLIC } from "../../host/conform/noise.ts";
import { formatJson, formatRow, formatSummary, formatTap } from "../../host/conform/report.ts";
import { type Result, type Stand, runChecks } from "../../host/conform/run.ts";
import { random, type Trial } from "../../host/conform/trial.ts";
import { encodeBase64Key } from "../../host/keys.ts";

const CLI = process.env.WASMGUARD_CLI || fileURLToPath(new URL("../../dist/cli.js", import.meta.url));

const table = suite("conform: the table of checks");

table("each has a name of its own, a sentence and a paragraph that it comes from", () => {
  const ids = CHECKS.map(({ id }) => id);
  assert.deepEqual(
    ids.filter((id, i) => ids.indexOf(id) !== i),
    [],
  );
  for (const { id, title, source } of CHECKS) {
    assert.match(id, /^[a-z]+\.[a-z0-9-]+$/);
    assert.match(title, /^[a-z0-9].{10,}[^.]$/, id);
    assert.match(source, /§|RFC|Linux|wireguard\.com|wg\(8\)|UAPI/, id);
  }
  assert.ok(CHECKS.length >= 100, `${CHECKS.length} checks`);
});

table("patterns choose and leave out", () => {
  const ids = (patterns?: string): string[] => choose(CHECKS, patterns).map(({ id }) => id);
  assert.equal(ids().length, CHECKS.length);
  assert.deepEqual(ids("cookie.mac2,roaming.forged"), ["roaming.forged", "cookie.mac2"]);
  assert.deepEqual(ids("window,-window.l"), ["window.replay", "window.inside", "window.outside"]);
  assert.deepEqual(ids("initiation.*-key"), ["initiation.mac1-key"]);
  assert.deepEqual(ids("(.+)+$"), []);
});

table("every mutant finds its text once, and names checks that are there", () => {
  checkTable();
  const ids = CHECKS.map(({ id }) => id);
  assert.deepEqual(
    MUTANTS.flatMap(({ fails }) => fails).filter((id) => !ids.includes(id)),
    [],
  );
  assert.deepEqual(
    MUTANTS.filter(({ fails }) => fails.length === 0),
    [],
  );
  assert.ok(MUTANTS.length >= 40, `${MUTANTS.length} mutants`);
});

table.run();

const running = suite("conform: running");

const trial = { close: async () => {} } as Trial;
const stand = (parallel: boolean): Stand => ({ has: new Set(["inner"]), parallel, open: async () => trial });

for (const parallel of [false, true]) {
  running(`outcomes in the order of the checks, ${parallel ? "beside one another" : "one by one"}`, async () => {
    const order: string[] = [];
    const results = await runChecks(
      [
        { id: "a.alone", title: "t", source: "s", alone: true, run: async () => void order.push("alone") },
        { id: "a.pass", title: "t", source: "s", run: async () => "what was seen" },
        { id: "a.fail", title: "t", source: "s", run: () => Promise.reject(new Deviation("it answers")) },
        { id: "a.unable", title: "t", source: "s", run: () => Promise.reject(new Unable("no second peer")) },
        { id: "a.broken", title: "t", source: "s", run: () => Promise.reject(new TypeError("oops")) },
        { id: "a.needs", title: "t", source: "s", needs: ["inner", "uapi"], run: async () => "never" },
        { id: "a.slow", title: "t", source: "s", slow: true, seconds: 100, run: async () => "never" },
        { id: "a.last", title: "t", source: "s", run: async () => void order.push("last") },
      ],
      stand(parallel),
    );
    assert.deepEqual(
      results.map(({ check, outcome }) => `${check.id} ${outcome}`),
      [
        "a.alone pass",
        "a.pass pass",
        "a.fail fail",
        "a.unable skip",
        "a.broken fail",
        "a.needs skip",
        "a.slow skip",
        "a.last pass",
      ],
    );
    assert.equal(results[1].seen, "what was seen");
    assert.equal(results[2].seen, "it answers");
    assert.match(results[4].seen, /the check itself failed: .*oops/s);
    assert.match(results[5].seen, /UAPI/);
    assert.deepEqual(order, parallel ? ["last", "alone"] : ["alone", "last"]);
  });
}

running("times: early is wrong, much too late is wrong, late is a busy machine", () => {
  mustBeWithin("it", 5000, 5000, 5334);
  mustBeWithin("it", 5900, 5000, 5334);
  assert.throws(() => mustBeWithin("it", 4800, 5000, 5334), /it after 4\.80 s, not 5\.00 s to 5\.33 s/);
  assert.throws(() => mustBeWithin("it", 7000, 5000, 5334), Deviation);
});

running.run();

const report = suite("conform: what is printed");

const RESULTS: Result[] = [
  {
    check: { id: "a.one", title: "answers # a \\ thing", source: "whitepaper §1", run: async () => {} },
    outcome: "pass",
    seen: "",
    ms: 12.3,
  },
  {
    check: { id: "a.two", title: "is silent", source: "RFC 1 §2", run: async () => {} },
    outcome: "fail",
    seen: 'it says "no"\nloudly',
    ms: 5,
  },
  {
    check: { id: "b.three", title: "waits", source: "Linux", run: async () => {} },
    outcome: "skip",
    seen: "takes 100 s",
    ms: 0,
  },
];

report("TAP 14", () => {
  const lines = formatTap(RESULTS).split("\n");
  assert.deepEqual(lines.slice(0, 3), ["TAP version 14", "1..3", "ok 1 - a.one: answers \\# a \\\\ thing"]);
  assert.ok(lines.includes("not ok 2 - a.two: is silent"), "not ok");
  assert.ok(lines.includes("ok 3 - b.three: waits # SKIP takes 100 s"), "skip");
  assert.ok(lines.includes('  message: "it says \\"no\\"\\nloudly"'), "message");
  assert.equal(lines.filter((line) => line === "  ---").length, lines.filter((line) => line === "  ...").length);
});

report("JSON", () => {
  const { peer, passed, failed, skipped, checks } = JSON.parse(formatJson(RESULTS, "192.0.2.1:5", 1234.5));
  assert.deepEqual({ peer, passed, failed, skipped }, { peer: "192.0.2.1:5", passed: 1, failed: 1, skipped: 1 });
  assert.deepEqual(checks[1], {
    id: "a.two",
    title: "is silent",
    source: "RFC 1 §2",
    outcome: "fail",
    seen: 'it says "no"\nloudly',
    ms: 5,
  });
});

report("a table that says by words what colour says, within the width", () => {
  const plain = { colour: false, width: 80 };
  const text = RESULTS.map((result, i) => formatRow(result, RESULTS[i - 1], plain)).join("");
  assert.match(text, /^ok +a\.one +answers # a \\ thing +whitepaper §1$/m);
  assert.match(text, /^FAIL a\.two +is silent/m);
  assert.match(text, /^ +but: it says "no"$/m);
  assert.match(text, /^skip b\.three/m);
  assert.ok(
    text.split("\n").every((line) => line.length <= 80),
    text,
  );
  assert.equal(text.includes("\x1b"), false);
  const coloured = RESULTS.map((result, i) => formatRow(result, RESULTS[i - 1], { ...plain, colour: true })).join("");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are
  assert.equal(coloured.replace(/\x1b\[[0-9;]*m/g, ""), text);
  assert.equal(
    formatSummary(RESULTS, 1500, plain),
    "3 checks: 1 passed, 1 failed, 1 skipped, in 2 s\n  failed: a.two\n",
  );
});

report.run();

const inner = suite("conform: packets in the tunnel");

inner("an echo is read as it was written, padded or not", () => {
  for (const [family, source, destination] of [
    [4, "10.0.0.1", "10.0.0.2"],
    [6, "fd98::1", "fd98::2:3"],
  ] as const) {
    const packet = echoPacket({ family, kind: "request", source, destination, id: 7, sequence: 9, data: random(33) });
    assert.equal(innerLength(packet), packet.length);
    const padded = new Uint8Array(packet.length + 11);
    padded.set(packet);
    const echo = readEcho(padded)!;
    assert.deepEqual([echo.kind, echo.id, echo.sequence, echo.data.length], ["request", 7, 9, 33]);
    assert.ok(sameAddress(echo.source, source) && sameAddress(echo.destination, destination), echo.source);
  }
  assert.equal(readEcho(new Uint8Array(0)), null);
  assert.equal(readEcho(random(19)), null);
});

inner.run();

const command = suite("conform: the command line");

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function wasmguard(...args: string[]): Promise<Ended> {
  const runtime = "Deno" in globalThis ? ["run", "-A", CLI] : [CLI];
  return new Promise((resolve) => {
    execFile(process.execPath, [...runtime, "conform", ...args], (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
  });
}

const folder = mkdtempSync(join(tmpdir(), "wgconform-test-"));
const privateKey = random(32);
const file = (name: string, text: string): string => {
  const path = join(folder, name);
  writeFileSync(path, text, { mode: 0o600 });
  return path;
};
const keyFile = file("key", `${encodeBase64Key(privateKey)}\n`);
const peerKey = encodeBase64Key(DH_PUBLIC(random(32)));

command.after(() => rmSync(folder, { recursive: true }));

command("wrong usage is told by name, with exit code 2, and no key in it", async () => {
  const right = ["--peer", "127.0.0.1:9", "--key", peerKey, "--private-key", keyFile];
  const secret = encodeBase64Key(random(32));
  const wrong: [RegExp, string[]][] = [
    [/needs --peer, --key and --private-key/, []],
    [/--peer: .*no :port/, ["--peer", "127.0.0.1", "--key", peerKey, "--private-key", keyFile]],
    [/--key: key has 3 characters/, ["--peer", "127.0.0.1:9", "--key", "abc", "--private-key", keyFile]],
    [
      /--private-key .*bad: key does not end/,
      ["--peer", "127.0.0.1:9", "--key", peerKey, "--private-key", file("bad", `${secret.slice(0, -1)}x`)],
    ],
    [/--source and --target go together/, [...right, "--source", "10.0.0.1"]],
    [/10\.0\.0 is not an IP address/, [...right, "--source", "10.0.0"]],
    [/--listen 70000 is not in 1\.\.65535/, [...right, "--listen", "70000"]],
    [/is in no check's name/, [...right, "--only", "nosuchcheck"]],
    [/--json and --tap/, [...right, "--json", "--tap"]],
    [/--quick and --slow/, [...right, "--quick", "--slow"]],
    [/unexpected argument "more"/, [...right, "more"]],
  ];
  for (const [message, args] of wrong) {
    const { code, stdout, stderr } = await wasmguard(...args);
    assert.match(stderr, message);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, "");
    assert.equal(stderr.includes(secret.slice(0, -1)), false, "the key is in the message");
  }
});

command("a peer that answers nothing is an error, not a hundred failures", async () => {
  const silent = createSocket("udp4");
  await new Promise<void>((resolve) => silent.bind(0, "127.0.0.1", resolve));
  const peer = `127.0.0.1:${silent.address().port}`;
  const { code, stdout, stderr } = await wasmguard("--peer", peer, "--key", peerKey, "--private-key", keyFile);
  silent.close();
  assert.match(stderr, /Cannot check 127\.0\.0\.1:\d+: it answers no handshake/);
  assert.equal(code, 1);
  assert.equal(stdout, "");
});

command("a list of the checks", async () => {
  const { code, stdout } = await wasmguard("--list", "--only", "window");
  assert.equal(code, 0);
  assert.match(stdout, /^window\.replay +takes a packet once \[whitepaper §5\.4\.6; RFC 6479\]$/m);
  assert.equal(stdout.trim().split("\n").length, choose(CHECKS, "window").length);
});

command.run();
