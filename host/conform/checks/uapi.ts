// The peer's UAPI socket: what it tells, what it takes, what it refuses, and that the tunnel follows.

import { type Check, hex, must, sleep } from "../check.ts";
import { echoPacket } from "../inner.ts";
import { DH_PUBLIC, NO_PSK } from "../noise.ts";
import { ANSWER_MS } from "../port.ts";
import { KEEPALIVE } from "../session.ts";
import { type Trial, random, type } from "../trial.ts";
import { valueOf } from "../uapi.ts";
import { LOW_ORDER, SILENCE_MS } from "./common.ts";

const SOURCE = "wireguard.com/xplatform";

const newKey = (): string => hex(DH_PUBLIC(random(32)));
const allowed = (lines: string[]): string[] =>
  lines.filter((line) => line.startsWith("allowed_ip=")).map((line) => line.slice(11));
/** A prefix that no other check uses. */
const prefix = (): string => `198.18.${random(1)[0]}.${random(1)[0]}/32`;

/** Each of these sets has to be refused; whatever the last good lines did is taken back by removing `key`. */
async function refuses(trial: Trial, sets: [what: string, ...lines: string[]][]): Promise<string> {
  const seen = new Set<number>();
  const wrong: string[] = [];
  for (const [what, ...lines] of sets) {
    const errno = await trial.uapi.errno(lines);
    if (errno === 0) wrong.push(what);
    else seen.add(errno);
  }
  must(wrong.length === 0, `taken: ${wrong.join("; ")}`);
  return `errno ${[...seen].map((errno) => (Number.isNaN(errno) ? "none, connection closed" : errno)).join(", ")}`;
}

export const uapi: Check[] = [
  {
    id: "uapi.get",
    title: "tells of the device and each peer in the order and form of the protocol",
    source: SOURCE,
    needs: ["uapi"],
    async run(trial) {
      const device = (await trial.uapi.get()).filter(
        (line, i, all) => i < all.findIndex((it) => it.startsWith("public_key=")),
      );
      must(/^[0-9a-f]{64}$/.test(valueOf(device, "private_key") ?? ""), "private_key is not 64 digits of hex");
      must(
        valueOf(device, "listen_port") === String(trial.target.address.port),
        `listen_port=${valueOf(device, "listen_port")}`,
      );
      const peer = await trial.told();
      for (const [key, form] of Object.entries({
        preshared_key: /^0{64}$/,
        protocol_version: /^1$/,
        endpoint: /:\d+$/,
        last_handshake_time_sec: /^0$/,
        last_handshake_time_nsec: /^0$/,
        tx_bytes: /^0$/,
        rx_bytes: /^0$/,
        persistent_keepalive_interval: /^0$/,
        allowed_ip: /^[0-9a-f.:]+\/\d+$/,
      })) {
        must(form.test(valueOf(peer, key) ?? ""), `${key}=${key === "preshared_key" ? "?" : valueOf(peer, key)}`);
      }
    },
  },
  {
    id: "uapi.operations",
    title: "takes operations one after the other on one connection, and answers each",
    source: SOURCE,
    needs: ["uapi"],
    async run(trial) {
      const replies = await trial.uapi.converse(["get=1\n\n", "set=1\n\n", "get=1\n\n"]);
      const answered = replies.filter((reply) => /^errno=0$/m.test(reply)).length;
      must(answered === 3, `${answered} of 3 are answered with errno=0`);
    },
  },
  {
    id: "uapi.unknown",
    title: "refuses keys that the protocol has not, and lines that are none",
    source: SOURCE,
    needs: ["uapi"],
    run: (trial) =>
      refuses(trial, [
        ["a device key that does not exist", "colour=1"],
        ["a peer key that does not exist", `public_key=${hex(trial.publicKey)}`, "colour=1"],
        ["a peer's key before any public_key", "allowed_ip=198.18.0.0/32"],
        ["a line without =", "listen_port"],
      ]),
  },
  {
    id: "uapi.values",
    title: "refuses values that a key cannot have",
    source: SOURCE,
    needs: ["uapi"],
    run: (trial) => {
      const peer = `public_key=${hex(trial.publicKey)}`;
      return refuses(trial, [
        ["a public key of 63 digits", `public_key=${"a".repeat(63)}`],
        ["a public key that is not hex", `public_key=${"g".repeat(64)}`],
        ["a private key of 62 digits", `private_key=${"a".repeat(62)}`],
        ["a preshared key of 66 digits", peer, `preshared_key=${"a".repeat(66)}`],
        ["port 65536", "listen_port=65536"],
        ["a negative port", "listen_port=-1"],
        ["a keepalive of 65536", peer, "persistent_keepalive_interval=65536"],
        ["an allowed IP /33", peer, "allowed_ip=198.18.0.0/33"],
        ["an allowed IP that is none", peer, "allowed_ip=198.18.0/24"],
        ["an endpoint without port", peer, "endpoint=192.0.2.1"],
        ["an endpoint that is a name", peer, "endpoint=:12"],
        ["replace_peers=false", "replace_peers=false"],
        ["remove=false", peer, "remove=false"],
        ["update_only=1", peer, "update_only=1"],
        ["an fwmark that is no number", "fwmark=x"],
      ]);
    },
  },
  {
    id: "uapi.protocol-version",
    title: "takes protocol_version 1 and refuses another",
    source: SOURCE,
    needs: ["uapi"],
    async run(trial) {
      const peer = `public_key=${hex(trial.publicKey)}`;
      must((await trial.uapi.errno([peer, "protocol_version=1"])) === 0, "1 is refused");
      return refuses(trial, [["2", peer, "protocol_version=2"]]);
    },
  },
  {
    id: "uapi.update-only",
    title: "adds no peer for update_only, and changes one that is there",
    source: SOURCE,
    needs: ["uapi"],
    async run(trial) {
      const key = newKey();
      await trial.uapi.set(`public_key=${key}`, "update_only=true", `allowed_ip=${prefix()}`);
      must(!(await trial.uapi.peer(key)), "the peer was added");
      await trial.configure("update_only=true", "persistent_keepalive_interval=7777");
      must(
        valueOf(await trial.told(), "persistent_keepalive_interval") === "7777",
        "a peer that is there was not changed",
      );
      await trial.configure("persistent_keepalive_interval=0");
    },
  },
  {
    id: "uapi.remove",
    title: "forgets a removed peer: not listed, no session, no handshake",
    source: SOURCE,
    needs: ["uapi", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      must(await trial.echo(session), "an echo request is not answered before");
      await trial.configure("remove=true");
      must(!(await trial.uapi.peer(hex(trial.publicKey))), "it is still listed");
      must(!(await trial.echo(session, { timeoutMs: 600 })), "its session still works");
      const made = trial.initiation();
      await trial.send(made.message);
      must(!(await trial.answer(made, 600)), "its initiation is answered");
      await trial.configure("remove=true");
    },
  },
  {
    id: "uapi.allowed-ip-moves",
    title: "takes an allowed IP from one peer when another gets it",
    source: `${SOURCE}; wg(8) AllowedIPs`,
    needs: ["uapi"],
    async run(trial) {
      const other = await trial.another();
      const moving = prefix();
      await trial.configure(`allowed_ip=${moving}`);
      must(allowed(await trial.told()).includes(moving), "it was not added");
      await other.configure(`allowed_ip=${moving}`);
      must(allowed(await other.told()).includes(moving), "the other has it not");
      must(!allowed(await trial.told()).includes(moving), "the first still has it");
    },
  },
  {
    id: "uapi.allowed-ip-replace",
    title: "replaces allowed IPs for replace_allowed_ips, else adds to them; masks host bits",
    source: SOURCE,
    needs: ["uapi"],
    async run(trial) {
      const [a, b] = ["198.18.77.1/32", "198.18.78.1/32"];
      const before = allowed(await trial.told());
      await trial.configure(`allowed_ip=${a}`, "allowed_ip=198.19.77.99/24");
      const after = allowed(await trial.told());
      must(
        [...before, a, "198.19.77.0/24"].every((ip) => after.includes(ip)),
        `added to ${before.join(", ")}: ${after.join(", ")}`,
      );
      await trial.configure("replace_allowed_ips=true", `allowed_ip=${b}`);
      must(allowed(await trial.told()).join() === b, `after replacing: ${allowed(await trial.told()).join(", ")}`);
    },
  },
  {
    id: "uapi.allowed-ip-minus",
    title: "takes away the one allowed IP of a value with a minus sign",
    source: "UAPI allowed_ip=-IP/CIDR (Linux 6.16, wireguard-go 2025)",
    needs: ["uapi"],
    async run(trial) {
      const [a, b] = ["198.18.87.1/32", "198.18.88.1/32"];
      await trial.configure(`allowed_ip=${a}`, `allowed_ip=${b}`);
      await trial.configure(`allowed_ip=-${a}`);
      const left = allowed(await trial.told());
      must(!left.includes(a) && left.includes(b), `left: ${left.join(", ")}`);
    },
  },
  {
    id: "uapi.counters",
    title: "tells the newest handshake, the endpoint and the bytes both ways",
    source: SOURCE,
    needs: ["uapi", "inner"],
    async run(trial) {
      const session = await trial.handshake();
      const reply = await trial.echo(session, { size: 100 });
      must(reply, "an echo request is not answered");
      await sleep(100);
      const lines = await trial.told();
      const ago = Date.now() / 1000 - Number(valueOf(lines, "last_handshake_time_sec"));
      must(ago > -2 && ago < 30, `the newest handshake was ${Math.round(ago)} s ago`);
      must(valueOf(lines, "endpoint")?.endsWith(`:${trial.port.number}`), `endpoint=${valueOf(lines, "endpoint")}`);
      const data = reply.received.bytes.length;
      // An initiation, a keepalive and the request in, a response and the reply out.
      must(
        valueOf(lines, "rx_bytes") === String(148 + 32 + data),
        `rx_bytes=${valueOf(lines, "rx_bytes")}, not ${180 + data}`,
      );
      must(
        valueOf(lines, "tx_bytes") === String(92 + data),
        `tx_bytes=${valueOf(lines, "tx_bytes")}, not ${92 + data}`,
      );
    },
  },
  {
    id: "uapi.unanswered-is-none",
    title: "tells no handshake before one is confirmed",
    source: "Linux timers.c wg_timers_handshake_complete",
    needs: ["uapi"],
    async run(trial) {
      const session = await trial.handshake({ confirm: false });
      await sleep(50);
      must(valueOf(await trial.told(), "last_handshake_time_sec") === "0", "it tells one after the response alone");
      await trial.send(session.seal(KEEPALIVE));
      await sleep(100);
      must(valueOf(await trial.told(), "last_handshake_time_sec") !== "0", "it tells none after the first packet");
    },
  },
  {
    id: "uapi.peer-low-order",
    title: "begins no handshake with a peer whose public key is of low order",
    source: "RFC 7748 §6.1; Linux noise.c",
    needs: ["uapi", "system"],
    async run(trial) {
      for (const point of LOW_ORDER.slice(1)) {
        const key = hex(point);
        const lines = [`endpoint=${trial.ownEndpoint}`, "persistent_keepalive_interval=60"];
        await trial.uapi.errno([`public_key=${key}`, ...lines]);
        const got = await trial.inbox.next((it) => it.bytes[0] === 1, 150);
        await trial.uapi.errno([`public_key=${key}`, "remove=true"]);
        must(!got, "an initiation");
      }
      await trial.handshake();
    },
  },
  {
    id: "uapi.own-key",
    title: "has no peer with its own public key",
    source: "Linux netlink.c set_peer",
    needs: ["uapi"],
    async run(trial) {
      const own = hex(trial.target.publicKey);
      await trial.uapi.errno([`public_key=${own}`, `allowed_ip=${prefix()}`]);
      const listed = await trial.uapi.peer(own);
      await trial.uapi.errno([`public_key=${own}`, "remove=true"]);
      must(!listed, "it is listed");
    },
  },
  {
    id: "uapi.psk-kept",
    title: "keeps what a set does not name",
    source: SOURCE,
    needs: ["uapi"],
    async run(trial) {
      const psk = random(32);
      await trial.configure(`preshared_key=${hex(psk)}`, "persistent_keepalive_interval=5555");
      await trial.configure(`allowed_ip=${prefix()}`);
      const lines = await trial.told();
      must(valueOf(lines, "preshared_key") === hex(psk), "the preshared key is gone");
      must(valueOf(lines, "persistent_keepalive_interval") === "5555", "the keepalive interval is gone");
      must(valueOf(lines, "endpoint") !== undefined, "the endpoint is gone");
      trial.psk = psk;
      await trial.handshake();
      trial.psk = NO_PSK;
    },
  },
  {
    id: "uapi.listen-port",
    title: "moves to another port, keeps sessions, and leaves the old one",
    source: SOURCE,
    needs: ["uapi", "system", "inner"],
    alone: true,
    async run(trial) {
      const { host, port } = trial.target.address;
      const session = await trial.handshake();
      const moved = port + 1;
      await trial.uapi.set(`listen_port=${moved}`);
      await sleep(150);
      try {
        const made = trial.initiation();
        await trial.send(made.message);
        must(!(await trial.answer(made, 600)), "an initiation to the old port is answered");
        const request = trial.request();
        await trial.send(session.seal(echoPacket(request)), trial.port, { host, port: moved });
        const reply = await trial.reply(request);
        must(reply, "data to the new port is not taken");
        must(reply.received.from.port === moved, `the answer comes from port ${reply.received.from.port}`);
      } finally {
        await trial.uapi.set(`listen_port=${port}`);
      }
      await trial.handshake();
    },
  },
  {
    id: "uapi.listen-port-taken",
    title: "refuses a port that is taken, and stays on its own",
    source: `${SOURCE} (errno)`,
    needs: ["uapi", "system"],
    alone: true,
    async run(trial) {
      const taken = trial.system.takePort();
      try {
        const errno = await trial.uapi.errno([`listen_port=${await taken.port}`]);
        must(errno !== 0, "errno=0");
        return `errno ${errno}`;
      } finally {
        await taken.release();
        await trial.uapi.set(`listen_port=${trial.target.address.port}`);
        await trial.handshake();
      }
    },
  },
  {
    id: "uapi.private-key",
    title: "answers for a new private key alone, and sends nothing under old sessions",
    source: "Linux netlink.c, noise.c",
    needs: ["uapi", "system", "inner"],
    alone: true,
    async run(trial) {
      const before = valueOf(await trial.uapi.get(), "private_key")!;
      const session = await trial.handshake();
      must(await trial.echo(session), "an echo request is not answered before");
      const priv = random(32);
      await trial.uapi.set(`private_key=${hex(priv)}`);
      await sleep(50); // past the limit of 50 initiations a second
      try {
        const old = trial.initiation();
        await trial.send(old.message);
        const publicKey = DH_PUBLIC(priv);
        const fresh = trial.initiation({ responder: publicKey });
        await trial.send(fresh.message);
        const got = await trial.answer(fresh);
        must(got && type(got) === 2, "an initiation for the new key is not answered");
        must(!(await trial.answer(old, SILENCE_MS)), "an initiation for the old key is answered");
        void trial.system.ping(trial.inner().ours);
        must(
          !(await trial.data(session, (plain) => plain.length > 0, { timeoutMs: 700 })),
          "it sends under the old session",
        );
      } finally {
        await trial.uapi.set(`private_key=${before}`);
      }
      await trial.handshake();
    },
  },
  {
    id: "uapi.private-key-zero",
    title: "without a private key (64 zeros) tells none, answers nothing and begins nothing",
    source: SOURCE,
    needs: ["uapi", "system", "inner"],
    alone: true,
    async run(trial) {
      const before = valueOf(await trial.uapi.get(), "private_key")!;
      await trial.uapi.set(`private_key=${"0".repeat(64)}`);
      try {
        const told = valueOf(await trial.uapi.get(), "private_key");
        must(told === undefined || /^0+$/.test(told), "a private key is told");
        const made = trial.initiation();
        await trial.send(made.message);
        void trial.system.ping(trial.inner().ours);
        must(!(await trial.answer(made, 600)), "an initiation is answered");
        must(!(await trial.inbox.next((it) => it.bytes[0] === 1, 300)), "it begins a handshake");
      } finally {
        await trial.uapi.set(`private_key=${before}`);
      }
      await sleep(ANSWER_MS / 10);
      await trial.handshake();
    },
  },
  {
    id: "uapi.replace-peers",
    title: "has the named peers alone after replace_peers",
    source: SOURCE,
    needs: ["uapi"],
    alone: true,
    async run(trial) {
      const session = await trial.handshake();
      const key = newKey();
      await trial.uapi.set("replace_peers=true", `public_key=${key}`);
      const keys = (await trial.uapi.get()).filter((line) => line.startsWith("public_key="));
      must(keys.join() === `public_key=${key}`, `${keys.length} peers are left`);
      await trial.send(session.seal(KEEPALIVE));
      const made = trial.initiation();
      await trial.send(made.message);
      must(!(await trial.answer(made, 600)), "a peer that is gone is answered");
      await trial.uapi.set("replace_peers=true");
    },
  },
];
