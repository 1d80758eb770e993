// Our own command, broken on purpose: one rule in each mutant, as a change of source text, compiled and run under the
// conformance checks, which have to turn red exactly where the table says. A change is text, because a switch at each
// of these places would stand in everybody's way who reads the core; it must be found exactly once, so that a table
// left behind by the source is an error and not a mutant that does nothing.
import { execFile, spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
/** Below the project, so that its packages are found. */
const cache = join(root, "node_modules/.cache/conform");

/** How this runtime is told to run a script. */
const run = "Deno" in globalThis ? ["run", "-A"] : [];

const RECEIVE = "assembly/tunnel/receive.ts";
const HANDSHAKES = "assembly/tunnel/handshakes.ts";
const REPLAY = "assembly/tunnel/replay.ts";
const TIMERS = "assembly/tunnel/timers.ts";
const COOKIE = "assembly/noise/cookie.ts";

/**
 * name: what is broken; edits: [file, text, text in its place]; fails: the checks that turn red, all of them.
 * @type {{ name: string, edits: [string, string, string][], fails: string[] }[]}
 */
export const MUTANTS = [
  {
    name: "reserved bytes are not looked at",
    edits: [
      [RECEIVE, "const type = load<u32>(message); // the three", "const type = <u32>load<u8>(message); // the three"],
      [HANDSHAKES, "const type = load<u32>(message);", "const type = <u32>load<u8>(message);"],
    ],
    fails: ["initiation.reserved", "answer.reserved", "data.reserved", "cookie.forged"],
  },
  {
    name: "a handshake message may be a byte too long",
    edits: [[RECEIVE, "if (len != expected) return", "if (len != expected && len != expected + 1) return"]],
    fails: ["initiation.length", "answer.length", "cookie.forged"],
  },
  {
    name: "mac1 is not checked",
    edits: [[HANDSHAKES, "if (!checkMac1(message, mac1)) return DROP_BAD_MAC1;", "checkMac1(message, mac1);"]],
    fails: ["initiation.mac1", "initiation.mac1-key", "answer.mac1", "cookie.mac1"],
  },
  {
    name: "under load, any mac2 will do",
    edits: [[HANDSHAKES, "if (!checkMac2(message, mac1 + MAC_LEN, endpoint)) {", "if (!load<u64>(mac1 + MAC_LEN)) {"]],
    fails: ["cookie.mac2", "cookie.bound"],
  },
  {
    name: "a cookie is for any port",
    edits: [[COOKIE, "  blake2sUpdate(state, endpoint + ENDPOINT_PORT, 2);\n", ""]],
    fails: ["cookie.bound"],
  },
  {
    name: "a cookie is for any address",
    edits: [
      [
        COOKIE,
        "  blake2sUpdate(state, endpoint + ENDPOINT_ADDR, load<u16>(endpoint, ENDPOINT_FAMILY) == 4 ? 4 : 16);\n",
        "",
      ],
    ],
    fails: ["cookie.bound"],
  },
  {
    name: "cookie replies are sealed without mac1",
    edits: [
      [
        COOKIE,
        "cookie, COOKIE_LEN, mac1, MAC_LEN, CHECKER_COOKIE_KEY",
        "cookie, COOKIE_LEN, mac1, 0, CHECKER_COOKIE_KEY",
      ],
    ],
    fails: ["cookie.reply", "cookie.accepted", "cookie.mac2", "cookie.bound", "cookie.limit", "cookie.response"],
  },
  {
    name: "under load, a source may ask any number of times",
    edits: [
      [HANDSHAKES, "if (!limiterAllow(endpoint, now)) return DROP_RATE_LIMITED;", "limiterAllow(endpoint, now);"],
    ],
    fails: ["cookie.limit"],
  },
  {
    name: "a cookie reply is taken whatever its tag",
    edits: [
      [
        COOKIE,
        "  if (!xaeadOpen(opened, sealed, COOKIE_LEN + 16, cookie.lastMac1, MAC_LEN, cookie.openKey, nonce)) return false;",
        "  xaeadOpen(opened, sealed, COOKIE_LEN + 16, cookie.lastMac1, MAC_LEN, cookie.openKey, nonce);",
      ],
    ],
    fails: ["cookie.forged"],
  },
  {
    name: "a cookie is never used",
    edits: [[COOKIE, "if (cookie.valid && now < cookie.born", "if (cookie.valid == 7 && now < cookie.born"]],
    fails: ["cookie.used"],
  },
  {
    name: "timestamps are not compared",
    edits: [
      [HANDSHAKES, "if (!tai64nAfter(timestamp, handshake.timestamp)) return refused(peer, DROP_OLD_TIMESTAMP);", ""],
    ],
    fails: ["initiation.replayed", "initiation.timestamp-older", "roaming.replayed-initiation"],
  },
  {
    name: "an equal timestamp is later",
    edits: [
      [
        "assembly/noise/tai64n.ts",
        "memory.compare(a, b, TIMESTAMP_LEN) > 0",
        "memory.compare(a, b, TIMESTAMP_LEN) >= 0",
      ],
    ],
    fails: ["initiation.replayed", "initiation.timestamp-older", "roaming.replayed-initiation"],
  },
  {
    name: "our stamps tell the nanosecond",
    edits: [["assembly/noise/tai64n.ts", "let nsec = wallNsec & ~(STEP_NS - 1);", "let nsec = wallNsec | 1;"]],
    fails: ["initiator.timestamp"],
  },
  {
    name: "initiations are not limited",
    edits: [
      [HANDSHAKES, "if (last && now < last + INITIATION_GAP_NS) return refused(peer, DROP_HANDSHAKE_FLOOD);", ""],
    ],
    fails: ["initiation.rate"],
  },
  {
    name: "points of low order are taken",
    edits: [
      [
        "assembly/noise/handshake.ts",
        "const valid = x25519(dh, privateKey, publicKey);",
        "const valid = true;\n  x25519(dh, privateKey, publicKey);",
      ],
      [
        "assembly/noise/handshake.ts",
        "const valid = !isZeroConstantTime(staticStatic, KEY_LEN);",
        "const valid = true;\n  isZeroConstantTime(staticStatic, KEY_LEN);",
      ],
    ],
    fails: ["initiation.ephemeral-low-order", "answer.low-order", "uapi.peer-low-order"],
  },
  {
    name: "the preshared key is zeros",
    edits: [
      [
        "assembly/noise/handshake.ts",
        "kdf3(chainingKey, temporary, key, chainingKey, presharedKey, KEY_LEN);",
        "wipe(temporary, KEY_LEN);\n  kdf3(chainingKey, temporary, key, chainingKey, temporary, KEY_LEN);",
      ],
    ],
    fails: ["psk.responder", "answer.psk", "uapi.psk-kept"],
  },
  {
    name: "a responder uses its session before it is confirmed",
    edits: [
      [
        HANDSHAKES,
        "import { count, NO_PEER, Peer, peerAt, PENDING_FLUSH } from",
        "import { count, NO_PEER, Peer, peerAt, PENDING_FLUSH, sessionAt } from",
      ],
      [
        HANDSHAKES,
        "  emitEvent(EVENT_RESPONSE_SENT, peer.number, 0);",
        "  sessionAt(peer, peer.next).confirmed = 1;\n  if (confirmSession(peer)) post(peer, PENDING_FLUSH);\n  emitEvent(EVENT_RESPONSE_SENT, peer.number, 0);",
      ],
    ],
    fails: [
      "initiation.unfinished",
      "initiation.superseded",
      "response.confirmation",
      "roaming.initiation",
      "uapi.unanswered-is-none",
    ],
  },
  {
    name: "the session before the present one is dropped at once",
    edits: [
      [
        "assembly/tunnel/keypairs.ts",
        "  drop(peer, peer.previous);\n  peer.previous = peer.current;\n  peer.current = peer.next;",
        "  drop(peer, peer.previous);\n  drop(peer, peer.current);\n  peer.previous = NO_SESSION;\n  peer.current = peer.next;",
      ],
    ],
    fails: ["data.previous"],
  },
  {
    name: "a packet counts as often as it comes",
    edits: [[RECEIVE, "if (!replayCheck(session.replay, counter))", "if (counter >= REJECT_AFTER_MESSAGES)"]],
    fails: ["window.replay", "window.inside", "window.outside", "window.leap", "roaming.replayed"],
  },
  {
    name: "the window has no end",
    edits: [[REPLAY, "if (newest - position > <u64>COUNTER_WINDOW_SIZE) return false;", ""]],
    fails: ["window.outside", "window.leap"],
  },
  {
    name: "the window is an eighth",
    edits: [
      [
        REPLAY,
        "if (newest - position > <u64>COUNTER_WINDOW_SIZE) return false;",
        "if (newest - position > 1016) return false;",
      ],
    ],
    fails: ["window.inside"],
  },
  {
    name: "the window is one too long",
    edits: [
      [
        REPLAY,
        "if (newest - position > <u64>COUNTER_WINDOW_SIZE) return false;",
        "if (newest - position > <u64>COUNTER_WINDOW_SIZE + 1) return false;",
      ],
    ],
    fails: ["window.outside"],
  },
  {
    name: "a leap leaves old bits behind",
    edits: [
      [
        REPLAY,
        "for (let step: u64 = 1; step <= steps; step++) store",
        "for (let step: u64 = 1; step < 1 && step <= steps; step++) store",
      ],
    ],
    fails: ["window.leap"],
  },
  {
    name: "the window moves before the tag is checked",
    edits: [
      [
        RECEIVE,
        "  const packet = message + DATA_HEADER_LEN;\n  const sealedLen",
        "  replayUpdate(session.replay, counter);\n  const packet = message + DATA_HEADER_LEN;\n  const sealedLen",
      ],
    ],
    fails: ["data.tag", "data.tag-first", "junk.session"],
  },
  {
    name: "counters have no limit",
    edits: [[REPLAY, "if (counter >= REJECT_AFTER_MESSAGES) return false;", ""]],
    fails: ["window.limit"],
  },
  {
    name: "the endpoint moves before the tag is checked",
    edits: [
      [
        RECEIVE,
        "  const packet = message + DATA_HEADER_LEN;\n  const sealedLen",
        "  setEndpoint(peer, endpoint);\n  const packet = message + DATA_HEADER_LEN;\n  const sealedLen",
      ],
    ],
    fails: ["roaming.forged"],
  },
  {
    name: "data does not move the endpoint",
    edits: [[RECEIVE, "if (setEndpoint(peer, endpoint)) post(peer, PENDING_ROAMED);", ""]],
    fails: ["roaming.data", "roaming.address", "roaming.keepalive"],
  },
  {
    name: "handshakes do not move the endpoint",
    edits: [[HANDSHAKES, "if (setEndpoint(peer, endpoint)) emitEvent", "if (!endpoint) emitEvent"]],
    fails: ["response.source", "roaming.initiation", "roaming.response"],
  },
  {
    name: "an inner source may be anybody's",
    edits: [[RECEIVE, "if (owner != <i32>peer.number) return refused(peer, DROP_BAD_SOURCE);", ""]],
    fails: ["inner.source"],
  },
  {
    name: "an inner packet may say that it is longer than it is",
    edits: [[RECEIVE, "return total > len ? 0 : total;", "return total > len ? len : total;"]],
    fails: ["inner.lies"],
  },
  {
    name: "nothing is padded",
    edits: [
      [
        "assembly/tunnel/transport.ts",
        "let padded = (last + PADDING_MULTIPLE - 1) & ~(PADDING_MULTIPLE - 1);",
        "let padded = last;",
      ],
    ],
    fails: ["data.padding"],
  },
  {
    name: "padding goes past the MTU",
    edits: [["assembly/tunnel/transport.ts", "if (mtu && padded > mtu) padded = mtu;", ""]],
    fails: ["data.padding-mtu"],
  },
  {
    name: "512 packets wait for a handshake",
    edits: [
      ["assembly/protocol.ts", "export const MAX_STAGED_PACKETS = 128;", "export const MAX_STAGED_PACKETS = 512;"],
    ],
    fails: ["staged.limit"],
  },
  {
    name: "an initiation is repeated after 3 s",
    edits: [
      ["assembly/protocol.ts", "export const REKEY_TIMEOUT_MS = 5_000;", "export const REKEY_TIMEOUT_MS = 3_000;"],
    ],
    fails: ["initiator.retransmits", "initiator.patient", "cookie.used", "timers.silence"],
  },
  {
    name: "every packet that waits asks for a handshake",
    edits: [[HANDSHAKES, "if (now < peer.handshakeAllowedAt || !hasIdentity()", "if (!hasIdentity()"]],
    fails: ["initiator.patient", "staged.order", "staged.limit"],
  },
  {
    name: "the passive keepalive comes after 7 s",
    edits: [
      [
        TIMERS,
        "  if (!timerDeadline(peer, TIMER_SEND_KEEPALIVE))\n    arm(peer, TIMER_SEND_KEEPALIVE, now + <u64>KEEPALIVE_TIMEOUT_MS * NS_PER_MS);",
        "  if (!timerDeadline(peer, TIMER_SEND_KEEPALIVE))\n    arm(peer, TIMER_SEND_KEEPALIVE, now + <u64>7000 * NS_PER_MS);",
      ],
    ],
    fails: ["timers.passive-keepalive", "timers.keepalive-repeats"],
  },
  {
    name: "one passive keepalive is enough",
    edits: [[TIMERS, "else if (!peer.needAnotherKeepalive) peer.needAnotherKeepalive = 1;", ""]],
    fails: ["timers.keepalive-repeats"],
  },
  {
    name: "empty packets are answered, too",
    edits: [[RECEIVE, "  if (packetLen == 0) {\n", "  if (packetLen == 0) {\n    dataReceived(peer, now);\n"]],
    fails: ["timers.keepalive-unanswered", "timers.keepalive-spared", "timers.quiet"],
  },
  {
    name: "the persistent keepalive takes twice as long",
    edits: [
      [
        TIMERS,
        "now + <u64>peer.persistentKeepalive * NS_PER_SEC",
        "now + <u64>peer.persistentKeepalive * 2 * NS_PER_SEC",
      ],
    ],
    fails: ["timers.persistent"],
  },
  {
    name: "silence is never noticed",
    edits: [[TIMERS, "  if (!timerDeadline(peer, TIMER_NEW_HANDSHAKE))\n", "  if (!peer.present)\n"]],
    fails: ["timers.silence"],
  },
  {
    name: "sessions outlive a change of the private key",
    edits: [["assembly/tunnel/device.ts", "    expireSessions(peer);\n", ""]],
    fails: ["uapi.private-key"],
  },
  {
    name: "64 zeros are a private key like any other",
    edits: [["assembly/noise/identity.ts", "if (isZeroConstantTime(privateKey, KEY_LEN)) {", "if (!privateKey) {"]],
    fails: ["uapi.private-key-zero"],
  },
  {
    name: "update_only is not looked at",
    edits: [["host/device.ts", "let peer = change.updateOnly ? find() : this", "let peer = this"]],
    fails: ["uapi.update-only"],
  },
  {
    name: "replace_peers replaces none",
    edits: [["host/device.ts", "if (change.replacePeers) this.#removeAllPeers();", ""]],
    fails: ["uapi.replace-peers"],
  },
  {
    name: "any protocol_version will do",
    edits: [["host/uapi.ts", 'if (value !== "1") throw new UapiError', 'if (value === "") throw new UapiError']],
    fails: ["uapi.protocol-version"],
  },
];

/** A word for folders and command lines. */
const slug = (name) => name.replace(/[^a-z0-9]+/gi, "-");

/** @throws when a text is not there exactly once */
function patch(folder, edits, name) {
  for (const [file, before, after] of edits) {
    const path = join(folder, file);
    const text = readFileSync(path, "utf8");
    const count = text.split(before).length - 1;
    if (count !== 1) throw new Error(`mutant "${name}": ${file} has ${count} times: ${before}`);
    writeFileSync(
      path,
      text.replace(before, () => after),
    );
  }
}

/** Whether every text of the table is in the source exactly once. @throws at the first that is not */
export function checkTable() {
  for (const { name, edits } of MUTANTS) {
    for (const [file, before] of edits) {
      const count = readFileSync(join(root, file), "utf8").split(before).length - 1;
      if (count !== 1) throw new Error(`mutant "${name}": ${file} has ${count} times: ${before}`);
    }
  }
}

/** Compiles our command with these changes. @returns the path of its cli.js; remove the folder above it after use */
export async function buildMutant({ name, edits }) {
  const folder = join(cache, `${slug(name)}-${process.pid}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const source of ["assembly", "host", "asconfig.json"])
    cpSync(join(root, source), join(folder, source), { recursive: true });
  patch(folder, edits, name);
  const asc = join(root, "node_modules/assemblyscript/bin/asc.js");
  const options = ["--config", "asconfig.json", "--target", "plain", "-O1", "--outFile", "dist/core-plain.wasm"];
  // Optimized a little: a core that is too slow would be under load where it should not.
  await promisify(execFile)(process.execPath, [...run, asc, "assembly/index.ts", ...options], { cwd: folder }).catch(
    (error) => {
      throw new Error(`mutant "${name}":\n${error.stdout}${error.stderr}`);
    },
  );
  await build({
    absWorkingDir: folder,
    entryPoints: ["host/cli.ts", "host/lane.ts"],
    outdir: "dist",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20",
    external: ["koffi"],
    logLevel: "error",
  });
  return join(folder, "dist/cli.js");
}

/** Runs checks of the unbroken dist/ against a command. @returns what --json prints */
export function conform(command, options = []) {
  const judge = process.env.WASMGUARD_CLI || join(root, "dist/cli.js");
  const args = [...run, judge, "conform", "--json", "--command", command, ...options];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    let [out, err] = ["", ""];
    child.stdout.on("data", (text) => (out += text));
    child.stderr.on("data", (text) => (err += text));
    child.once("error", reject);
    child.once("close", () => (out.startsWith("{") ? resolve(JSON.parse(out)) : reject(new Error(err || out))));
  });
}

/**
 * Builds a mutant and runs checks against it.
 * @param options  which checks; default: all that take no longer than some seconds, and those of the mutant's row
 * @returns {Promise<{ failed: string[], seen: Record<string, string>, ms: number }>}
 */
export async function tryMutant(mutant, options) {
  const cli = await buildMutant(mutant);
  try {
    const runtime = [process.execPath, ...run].join(" ");
    const isLong = mutant.fails.some((id) => LONG.test(id));
    const report = await conform(`${runtime} ${cli} --core plain -f {iface}`, options ?? (isLong ? [] : ["--quick"]));
    const failed = report.checks.filter(({ outcome }) => outcome === "fail");
    return {
      failed: failed.map(({ id }) => id),
      seen: Object.fromEntries(failed.map(({ id, seen }) => [id, seen])),
      ms: report.ms,
    };
  } finally {
    rmSync(dirname(dirname(cli)), { recursive: true, force: true });
  }
}

/** Checks that lie in wait: --quick leaves them out. */
const LONG = /^(timers\.|initiator\.(retransmits|patient|superseded)|response\.not-retried|cookie\.(used|forged))/;

/** All mutants, or those with one of the words in their names. @returns whether each turned red where it must alone */
export async function runMutants(words = []) {
  let right = true;
  for (const mutant of MUTANTS.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)))) {
    const { failed, seen, ms } = await tryMutant(mutant);
    const missing = mutant.fails.filter((id) => !failed.includes(id));
    const surplus = failed.filter((id) => !mutant.fails.includes(id));
    const isRight = missing.length === 0 && surplus.length === 0;
    right &&= isRight;
    const word = isRight ? "ok   " : "WRONG";
    console.log(`${word} ${mutant.name} (${(ms / 1000).toFixed(0)} s): ${failed.join(", ") || "nothing failed"}`);
    for (const id of missing) console.log(`      did not fail: ${id}`);
    for (const id of surplus) console.log(`      failed, too: ${id}: ${seen[id]}`);
  }
  return right;
}
