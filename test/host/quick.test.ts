// up and down, step by step, on a machine that only writes down what is done to it: for each configuration the list of
// commands, and the same list from the real wg-quick with programs of ours in place of ip, wg, nft and the others.

import assert from "node:assert";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { suite } from "uvu";
import { parseConfig } from "../../host/config.ts";
import { toEndpoint } from "../../host/endpoint.ts";
import { formatPrefix, parsePrefix } from "../../host/ip.ts";
import { encodeBase64Key } from "../../host/keys.ts";
import type { DeviceState } from "../../host/model.ts";
import { readConfigFile } from "../../host/quick/file.ts";
import type { Quick } from "../../host/quick/link.ts";
import { bringUp, type Progress, runHooks, takeBack, takeDown } from "../../host/quick/quick.ts";
import { sortedPrefixes } from "../../host/quick/routes.ts";
import { formatConfig } from "../../host/quick/save.ts";
import { LinuxSystem, type System } from "../../host/quick/system.ts";
import { cannotRun } from "../helpers/namespace.ts";

const KEY = Buffer.alloc(32, 7).toString("base64");
const NAME = "wgt0";
const WG_QUICK = ["/usr/bin/wg-quick", "/usr/local/bin/wg-quick"].find(existsSync);

/** A machine, as far as it answers. */
interface Machine {
  /** what commands print that ask; nothing = "" */
  answers?: Record<string, string>;
  /** default: nft, resolvconf, bash */
  programs?: string[];
}

interface Case extends Machine {
  name: string;
  /** of [Interface] and of its one [Peer] */
  interface: string;
  peer: string;
  up: string[];
  down: string[];
}

const PROGRAMS = ["nft", "resolvconf", "bash"];
const ADDRESS_4 =
  `2: ${NAME}    inet 10.1.0.1/24 scope global ${NAME}\\       valid_lft forever preferred_lft forever\n`;
const ADDRESS_6 = `2: ${NAME}    inet6 fd01::1/64 scope global \\       valid_lft forever preferred_lft forever\n`;

const rules = (family: 4 | 6, mark: number): string[] => {
  const [pf, address] = family === 4 ? ["ip", "10.1.0.1"] : ["ip6", "fd01::1"];
  return [
    ...(family === 4 ? ["sysctl -q net.ipv4.conf.all.src_valid_mark=1"] : []),
    "nft",
    `< add table ${pf} wg-quick-${NAME}`,
    `< add chain ${pf} wg-quick-${NAME} preraw { type filter hook prerouting priority -300; }`,
    `< add chain ${pf} wg-quick-${NAME} premangle { type filter hook prerouting priority -150; }`,
    `< add chain ${pf} wg-quick-${NAME} postmangle { type filter hook postrouting priority -150; }`,
    `< add rule ${pf} wg-quick-${NAME} preraw iifname != "${NAME}" ${pf} daddr ${address} fib saddr type != local drop`,
    `< add rule ${pf} wg-quick-${NAME} postmangle meta l4proto udp mark ${mark} ct mark set mark`,
    `< add rule ${pf} wg-quick-${NAME} premangle meta l4proto udp meta mark set ct mark`,
  ];
};

const CASES: Case[] = [
  {
    name: "addresses, routes by length, the MTU of the path to the endpoint",
    interface: "Address = 10.1.0.1/24, fd01::1/64\nAddress = 10.1.0.2/32",
    peer: "AllowedIPs = 10.0.0.0/8, 10.2.0.0/16, fd02::/48, 192.168.5.5/32, 10.3.0.0/16\nEndpoint = 198.51.100.7:51820",
    answers: {
      "ip route get 198.51.100.7": "198.51.100.7 via 192.0.2.1 dev eth7 src 192.0.2.9 uid 0 \n    cache \n",
      "ip link show dev eth7": "2: eth7: <BROADCAST,UP> mtu 9000 qdisc noqueue state UP\n",
    },
    up: [
      "interface",
      `ip -4 address add 10.1.0.1/24 dev ${NAME}`,
      `ip -6 address add fd01::1/64 dev ${NAME}`,
      `ip -4 address add 10.1.0.2/32 dev ${NAME}`,
      `ip link set mtu 8920 up dev ${NAME}`,
      `ip -6 route add fd02::/48 dev ${NAME}`,
      `ip -4 route add 192.168.5.5/32 dev ${NAME}`,
      `ip -4 route add 10.3.0.0/16 dev ${NAME}`,
      `ip -4 route add 10.2.0.0/16 dev ${NAME}`,
      `ip -4 route add 10.0.0.0/8 dev ${NAME}`,
    ],
    down: [`ip link delete dev ${NAME}`],
  },
  {
    name: "a route's own MTU, and a network that an address covers already",
    interface: "Address = 10.1.0.1/24",
    peer: "AllowedIPs = 10.1.0.0/24\nEndpoint = [2001:db8::7]:51820",
    answers: {
      "ip route get 2001:db8::7": "2001:db8::7 from :: via fe80::1 dev eth7 metric 1024 mtu 1300 pref medium\n",
      "ip link show dev eth7": "2: eth7: <BROADCAST,UP> mtu 9000\n",
      [`ip -4 route show dev ${NAME} match 10.1.0.0/24`]: "10.1.0.0/24 proto kernel scope link src 10.1.0.1 \n",
    },
    up: ["interface", `ip -4 address add 10.1.0.1/24 dev ${NAME}`, `ip link set mtu 1220 up dev ${NAME}`],
    down: [`ip link delete dev ${NAME}`],
  },
  {
    name: "no endpoint: the MTU of the default route, and of 1500 without one",
    interface: "Address = 10.1.0.1/24",
    peer: "AllowedIPs = 10.1.0.2/32",
    answers: {
      "ip route show default": "default via 192.0.2.1 dev eth7 \ndefault via 192.0.2.2 dev eth8 \n",
      "ip link show dev eth7": "2: eth7: mtu 1480\n",
      "ip link show dev eth8": "3: eth8: mtu 9000\n",
    },
    up: [
      "interface",
      `ip -4 address add 10.1.0.1/24 dev ${NAME}`,
      `ip link set mtu 1400 up dev ${NAME}`,
      `ip -4 route add 10.1.0.2/32 dev ${NAME}`,
    ],
    down: [`ip link delete dev ${NAME}`],
  },
  {
    name: "hooks in order, MTU and Table = off",
    interface:
      "PostDown = hook postdown %i\nPreUp = hook preup %i %i\nMTU = 1280\nTable = off\nPostUp = hook postup one\nPostUp = hook postup two; hook three\nPreDown = hook predown",
    peer: "AllowedIPs = 0.0.0.0/0, 10.0.0.0/8",
    up: [
      `hook preup ${NAME} ${NAME}`,
      "interface",
      `ip link set mtu 1280 up dev ${NAME}`,
      "hook postup one",
      "hook postup two",
      "hook three",
    ],
    down: ["hook predown", `ip link delete dev ${NAME}`, `hook postdown ${NAME}`],
  },
  {
    name: "a table by number takes all routes, the default one too",
    interface: "Table = 1234\nFwMark = 0x42",
    peer: "AllowedIPs = 0.0.0.0/0, ::/0, 10.0.0.0/8",
    up: [
      "interface",
      `ip link set mtu 1420 up dev ${NAME}`,
      `ip -4 route add 10.0.0.0/8 dev ${NAME} table 1234`,
      `ip -6 route add ::/0 dev ${NAME} table 1234`,
      `ip -4 route add 0.0.0.0/0 dev ${NAME} table 1234`,
    ],
    down: [`ip link delete dev ${NAME}`],
  },
  {
    name: "default routes of both families, the first table being taken",
    interface: "Address = 10.1.0.1/24, fd01::1/64\nTable = auto",
    peer: "AllowedIPs = 0.0.0.0/0, ::/0",
    answers: {
      "ip -6 route show table 51820": "default dev other metric 1024\n",
      [`ip -o -4 addr show dev ${NAME}`]: ADDRESS_4,
      [`ip -o -6 addr show dev ${NAME}`]: ADDRESS_6,
      "ip -4 rule show":
        "0:\tfrom all lookup local\n32764:\tfrom all lookup main suppress_prefixlength 0\n32765:\tnot from all fwmark 0xca6d lookup 51821\n",
      "ip -6 rule show":
        "0:\tfrom all lookup local\n32764:\tfrom all lookup main suppress_prefixlength 0\n32765:\tnot from all fwmark 0xca6d lookup 51821\n",
      "nft list tables":
        `table inet filter\ntable ip wg-quick-${NAME}\ntable ip6 wg-quick-${NAME}\ntable ip wg-quick-${NAME}x\n`,
    },
    up: [
      "interface",
      `ip -4 address add 10.1.0.1/24 dev ${NAME}`,
      `ip -6 address add fd01::1/64 dev ${NAME}`,
      `ip link set mtu 1420 up dev ${NAME}`,
      `wg set ${NAME} fwmark 51821`,
      `ip -6 route add ::/0 dev ${NAME} table 51821`,
      "ip -6 rule add not fwmark 51821 table 51821",
      "ip -6 rule add table main suppress_prefixlength 0",
      ...rules(6, 51821),
      `ip -4 route add 0.0.0.0/0 dev ${NAME} table 51821`,
      "ip -4 rule add not fwmark 51821 table 51821",
      "ip -4 rule add table main suppress_prefixlength 0",
      ...rules(4, 51821),
    ],
    down: [
      "nft",
      `< delete table ip wg-quick-${NAME}`,
      `< delete table ip6 wg-quick-${NAME}`,
      "ip -4 rule delete table 51821",
      "ip -4 rule delete table main suppress_prefixlength 0",
      "ip -6 rule delete table 51821",
      "ip -6 rule delete table main suppress_prefixlength 0",
      `ip link delete dev ${NAME}`,
    ],
  },
  {
    name: "FwMark of the file is the table",
    interface: "Address = 10.1.0.1/24\nFwMark = 0x42",
    peer: "AllowedIPs = 0.0.0.0/0",
    answers: { [`ip -o -4 addr show dev ${NAME}`]: ADDRESS_4 },
    up: [
      "interface",
      `ip -4 address add 10.1.0.1/24 dev ${NAME}`,
      `ip link set mtu 1420 up dev ${NAME}`,
      `ip -4 route add 0.0.0.0/0 dev ${NAME} table 66`,
      "ip -4 rule add not fwmark 66 table 66",
      "ip -4 rule add table main suppress_prefixlength 0",
      ...rules(4, 66),
    ],
    down: [`ip link delete dev ${NAME}`],
  },
  {
    name: "iptables where there is no nft",
    interface: "Address = 10.1.0.1/24",
    peer: "AllowedIPs = 0.0.0.0/0",
    programs: [
      "bash",
      "iptables",
      "iptables-save",
      "iptables-restore",
      "ip6tables",
      "ip6tables-save",
      "ip6tables-restore",
    ],
    answers: {
      [`ip -o -4 addr show dev ${NAME}`]: ADDRESS_4,
      "iptables-save":
        `*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.1.0.1/32 ! -i ${NAME} -m comment --comment "wg-quick(8) rule for ${NAME}"\n` +
        `-A PREROUTING -i other -j DROP\nCOMMIT\n`,
      "ip6tables-save": "*raw\n-A PREROUTING -i other -j DROP\nCOMMIT\n",
    },
    up: [
      "interface",
      `ip -4 address add 10.1.0.1/24 dev ${NAME}`,
      `ip link set mtu 1420 up dev ${NAME}`,
      `wg set ${NAME} fwmark 51820`,
      `ip -4 route add 0.0.0.0/0 dev ${NAME} table 51820`,
      "ip -4 rule add not fwmark 51820 table 51820",
      "ip -4 rule add table main suppress_prefixlength 0",
      "sysctl -q net.ipv4.conf.all.src_valid_mark=1",
      "iptables-restore -n",
      "< *raw",
      `< -I PREROUTING ! -i ${NAME} -d 10.1.0.1 -m addrtype ! --src-type LOCAL -j DROP -m comment --comment "wg-quick(8) rule for ${NAME}"`,
      "< COMMIT",
      "< *mangle",
      `< -I POSTROUTING -m mark --mark 51820 -p udp -j CONNMARK --save-mark -m comment --comment "wg-quick(8) rule for ${NAME}"`,
      `< -I PREROUTING -p udp -j CONNMARK --restore-mark -m comment --comment "wg-quick(8) rule for ${NAME}"`,
      "< COMMIT",
    ],
    down: [
      "iptables-restore -n",
      "< *raw",
      `< -D PREROUTING -d 10.1.0.1/32 ! -i ${NAME} -m comment --comment "wg-quick(8) rule for ${NAME}"`,
      "< COMMIT",
      `ip link delete dev ${NAME}`,
    ],
  },
  {
    name: "name servers and search domains by resolvconf",
    interface: "DNS = 10.1.0.53, corp.example, fd01::53\nDNS = lan.example",
    peer: "AllowedIPs = 10.1.0.0/24",
    up: [
      "interface",
      `ip link set mtu 1420 up dev ${NAME}`,
      `resolvconf -a ${NAME} -m 0 -x`,
      "< nameserver 10.1.0.53",
      "< nameserver fd01::53",
      "< search corp.example lan.example",
      `ip -4 route add 10.1.0.0/24 dev ${NAME}`,
    ],
    down: [`resolvconf -d ${NAME} -f`, `ip link delete dev ${NAME}`],
  },
];

/** Writes down what is done to it, in the words of wg-quick; rules that were removed are no longer shown. */
class PaperMachine implements System {
  readonly done: string[] = [];
  readonly said: string[] = [];
  readonly #answers: Map<string, string>;
  readonly #programs: string[];
  /** the command that fails, by its beginning */
  failing = "nothing";

  constructor({ answers = {}, programs = PROGRAMS }: Machine) {
    this.#answers = new Map(Object.entries(answers));
    this.#programs = programs;
  }

  async run(command: string[], input = ""): Promise<void> {
    const line = command.join(" ");
    this.done.push(line === "nft -f -" ? "nft" : line);
    this.done.push(...input.split("\n").filter(Boolean).map((text) => `< ${text}`));
    if (line.startsWith(this.failing)) throw new Error(`"${line}" failed`);
    if (line.includes("rule delete")) this.#removeRule(command);
  }

  async shell(line: string, namespace: string | undefined): Promise<void> {
    this.done.push(...line.split("; ").map((part) => (namespace === undefined ? part : `in ${namespace}: ${part}`)));
    if (line.startsWith(this.failing)) throw new Error(`"${line}" failed`);
  }

  async query(command: string[]): Promise<string> {
    return this.#answers.get(command.join(" ")) ?? "";
  }

  has(program: string): boolean {
    return this.#programs.includes(program);
  }

  set(path: string, value: string): void {
    this.done.push(`sysctl -q ${path.replace("/proc/sys/", "").replaceAll("/", ".")}=${value}`);
  }

  read(): string {
    return "";
  }

  say(line: string): void {
    this.said.push(line);
  }

  #removeRule([, flag, , , ...rule]: string[]): void {
    const show = `ip ${flag} rule show`;
    const shown = rule[1] === "main" ? "suppress_prefixlength 0" : `lookup ${rule[1]}`;
    const lines = this.#answers.get(show)!.split("\n");
    lines.splice(lines.findIndex((line) => line.endsWith(shown)), 1);
    this.#answers.set(show, lines.join("\n"));
  }
}

function configText(each: Pick<Case, "interface" | "peer">): string {
  return `[Interface]\nPrivateKey = ${KEY}\n${each.interface}\n\n[Peer]\nPublicKey = ${KEY}\n${each.peer}\n`;
}

function prepare(each: Pick<Case, "interface" | "peer"> & Machine, namespace?: string) {
  const machine = new PaperMachine(each);
  const config = parseConfig(configText(each));
  const quick: Quick = { name: NAME, config, system: machine, namespace };
  const endpoints = config.peers.flatMap((
    { endpoint },
  ) => (endpoint ? [toEndpoint(endpoint.host, endpoint.port)] : []));
  let mark = config.interface.fwmark ?? 0;
  const device = {
    fwmark: () => mark,
    setFwmark: async (value: number) => {
      mark = value;
      machine.done.push(`wg set ${NAME} fwmark ${value}`);
    },
  };
  const state = (): DeviceState => ({
    privateKey: config.interface.privateKey!,
    listenPort: 0,
    fwmark: mark,
    peers: config.peers.map(({ publicKey, allowedIps }) => ({
      publicKey,
      allowedIps,
      presharedKey: new Uint8Array(32),
      endpoint: null,
      lastHandshake: { sec: 0, nsec: 0 },
      txBytes: 0n,
      rxBytes: 0n,
      persistentKeepalive: 0,
    })),
  });
  const progress: Progress = { dns: false, firewall: false };
  const up = async (): Promise<void> => {
    await runHooks(quick, config.interface.preUp);
    machine.done.push("interface");
    await bringUp(quick, device, endpoints, progress);
  };
  return { machine, quick, config, state, progress, up, mark: () => mark };
}

const tables = suite("up and down");

for (const each of CASES) {
  tables(each.name, async () => {
    const { machine, quick, state, up } = prepare(each);
    await up();
    assert.deepEqual(machine.done, each.up);
    machine.done.length = 0;
    const removeInterface = (): Promise<void> => machine.run(["ip", "link", "delete", "dev", NAME]);
    await takeDown(quick, { path: "/nowhere", state: state(), removeInterface });
    assert.deepEqual(machine.done, each.down);
  });
}

tables("name servers by resolvectl where there is no resolvconf", async () => {
  const machine = { interface: "DNS = 10.1.0.53, corp.example", peer: "", programs: ["resolvectl"] };
  const { machine: system, quick, state, up } = prepare(machine);
  await up();
  assert.deepEqual(system.done.slice(2), [
    `resolvectl dns ${NAME} 10.1.0.53`,
    `resolvectl domain ${NAME} ~. corp.example`,
    `resolvectl default-route ${NAME} true`,
  ]);
  system.done.length = 0;
  await takeDown(quick, { path: "", state: state(), removeInterface: async () => {} });
  assert.deepEqual(system.done, [`resolvectl revert ${NAME}`]);
});

tables("what is needed and not installed is named", async () => {
  await assert.rejects(
    prepare({ interface: "DNS = 10.1.0.53", peer: "", programs: [] }).up(),
    /resolvconf or resolvectl/,
  );
  const peer = "AllowedIPs = 0.0.0.0/0";
  await assert.rejects(prepare({ interface: "", peer, programs: [] }).up(), /nft or iptables-restore/);
});

tables("into a namespace: MTU, move, then all else in there; a plain default route; hooks in there", async () => {
  const { machine, quick, state, up } = prepare(
    {
      interface: "Address = 10.1.0.1/24\nMTU = 1300\nPreUp = hook %i\nPostDown = bye",
      peer: "AllowedIPs = 0.0.0.0/0, 10.0.0.0/8\nEndpoint = 198.51.100.7:1",
    },
    "blue",
  );
  await up();
  assert.deepEqual(machine.done, [
    `in blue: hook ${NAME}`,
    "interface",
    `ip link set mtu 1300 dev ${NAME}`,
    `ip link set dev ${NAME} netns blue`,
    `ip -n blue -4 address add 10.1.0.1/24 dev ${NAME}`,
    `ip -n blue link set mtu 1300 up dev ${NAME}`,
    `ip -n blue -4 route add 10.0.0.0/8 dev ${NAME}`,
    `ip -n blue -4 route add 0.0.0.0/0 dev ${NAME}`,
  ]);
  machine.done.length = 0;
  await takeDown(quick, { path: "", state: { ...state(), fwmark: 51820 }, removeInterface: async () => {} });
  assert.deepEqual(machine.done, ["in blue: bye"]);
});

tables("whichever step fails, what was done is taken back", async () => {
  const all = CASES.find(({ name }) => name.startsWith("default routes"))!;
  const both = { ...all, interface: `${all.interface}\nDNS = 10.1.0.53\nPostUp = hook up` };
  const steps = [...all.up.filter((line) => /^(ip|nft)/.test(line)), "resolvconf -a", "hook up"];
  for (const failing of steps) {
    const { machine, quick, config, progress, up, mark } = prepare(both);
    machine.failing = failing;
    await assert.rejects(up(), /failed/, failing);
    assert.ok(machine.done.some((line) => line.startsWith(failing)), failing);
    machine.done.length = 0;
    machine.failing = "nothing";
    const prefixes = config.peers.flatMap((peer) => peer.allowedIps);
    await takeBack(quick, mark(), prefixes, progress);
    const isAfter = (other: string): boolean =>
      all.up.indexOf(failing) >= all.up.indexOf(other) || failing === "hook up";
    const dns = failing === "resolvconf -a" || isAfter(`wg set ${NAME} fwmark 51821`);
    const firewall = isAfter("nft");
    const expected = [
      ...(dns ? [`resolvconf -d ${NAME} -f`] : []),
      ...(firewall ? all.down.slice(0, 3) : []),
      ...(mark() ? all.down.slice(3, 7) : []),
    ];
    assert.deepEqual(machine.done, expected, failing);
  }
});

tables("taking back goes on after a failure, and says it", async () => {
  const { machine, quick, config, progress, up, mark } = prepare({ ...CASES[5], interface: "DNS = 10.1.0.53" });
  await up();
  machine.failing = "resolvconf -d";
  machine.done.length = 0;
  await takeBack(quick, mark(), config.peers.flatMap((peer) => peer.allowedIps), progress);
  assert.equal(machine.done.length, 8);
  assert.match(machine.said.at(-1)!, /resolvconf -d .* failed/);
});

tables("a PreDown that fails stops down before anything is changed", async () => {
  const { machine, quick, state, up } = prepare({ interface: "PreDown = no", peer: "AllowedIPs = 0.0.0.0/0" });
  await up();
  machine.done.length = 0;
  machine.failing = "no";
  await assert.rejects(
    takeDown(quick, { path: "", state: state(), removeInterface: async () => assert.fail() }),
    /failed/,
  );
  assert.deepEqual(machine.done, ["no"]);
});

tables("prefixes in wg-quick's order, each once", () => {
  const given = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "::/0",
    "10.0.0.0/8",
    "fd00::/8",
    "9.0.0.0/8",
    "10.1.1.1/32",
    "fd00::1/128",
  ];
  const sorted = sortedPrefixes(given.map((text) => parsePrefix(text))).map(formatPrefix);
  assert.deepEqual(sorted, ["fd00::1/128", "10.1.1.1/32", "fd00::/8", "9.0.0.0/8", "10.0.0.0/8", "::/0", "0.0.0.0/0"]);
});

tables("SaveConfig: what wg-quick keeps, and names; our own parser reads it", () => {
  const text = configText({
    interface:
      "Address = 10.1.0.1/24\nMTU = 1300\nTable = 77\nDNS = 10.1.0.53, corp.example\nSaveConfig = true\nPreUp = a %i\nPostUp = b\nPreDown = c\nPostDown = d",
    peer: "AllowedIPs = 10.1.0.0/24\nEndpoint = vpn.example:51820",
  });
  const config = parseConfig(text);
  const { state } = prepare({ interface: "", peer: "" });
  const device = { ...state(), listenPort: 5, fwmark: 66 };
  device.peers[0].allowedIps = [parsePrefix("10.1.0.0/24"), parsePrefix("fd01::/64")];
  device.peers[0].endpoint = { ...toEndpoint("198.51.100.7", 9), scope: 0 };
  device.peers[0].persistentKeepalive = 25;
  device.peers.push({
    ...device.peers[0],
    publicKey: new Uint8Array(32).fill(8),
    presharedKey: new Uint8Array(32).fill(9),
    allowedIps: [],
    persistentKeepalive: 0,
  });
  const saved = formatConfig({ config }, device, ["10.1.0.1/24", "10.1.0.9/32"], 1280);
  assert.equal(
    saved,
    "[Interface]\nAddress = 10.1.0.1/24\nAddress = 10.1.0.9/32\nDNS = 10.1.0.53\nDNS = corp.example\nMTU = 1280\nTable = 77\nSaveConfig = true\n" +
      `PreUp = a %i\nPostUp = b\nPreDown = c\nPostDown = d\nListenPort = 5\nFwMark = 0x42\nPrivateKey = ${KEY}\n\n` +
      `[Peer]\nPublicKey = ${KEY}\nAllowedIPs = 10.1.0.0/24, fd01::/64\nEndpoint = vpn.example:51820\nPersistentKeepalive = 25\n\n` +
      `[Peer]\nPublicKey = ${encodeBase64Key(device.peers[1].publicKey)}\nPresharedKey = ${
        encodeBase64Key(device.peers[1].presharedKey)
      }\n` +
      "Endpoint = 198.51.100.7:9\n",
  );
  assert.equal(parseConfig(saved).interface.mtu, 1280);
});

tables.run();

const files = suite("configuration files");

files("a name is looked up, a path taken as it is; links are followed; others' eyes are warned of", () => {
  const folder = mkdtempSync(join(tmpdir(), "quick-"));
  try {
    const text = "[Interface]\n";
    writeFileSync(join(folder, "wg_a=+.-1.conf"), text, { mode: 0o600 });
    mkdirSync(join(folder, "open"), { mode: 0o755 });
    chmodSync(join(folder, "open"), 0o755);
    writeFileSync(join(folder, "open/real.conf"), text);
    chmodSync(join(folder, "open/real.conf"), 0o644);
    symlinkSync(join(folder, "open/real.conf"), join(folder, "link.conf"));
    const warnings: string[] = [];
    const read = (argument: string) => readConfigFile(argument, (line) => warnings.push(line), folder);
    assert.equal(read("wg_a=+.-1").name, "wg_a=+.-1");
    assert.equal(read(join(folder, "wg_a=+.-1.conf")).path, join(folder, "wg_a=+.-1.conf"));
    assert.deepEqual(warnings, []);
    const { name, path } = read("link");
    assert.deepEqual([name, path], ["link", join(folder, "open/real.conf")]);
    assert.deepEqual(warnings, [`Warning: ${join(folder, "open/real.conf")} is world accessible`]);
    assert.throws(() => read("absent"), /absent\.conf does not exist/);
    writeFileSync(join(folder, "much-too-long-a-name.conf"), text);
    assert.throws(() => read(join(folder, "much-too-long-a-name.conf")), /must be named after its interface/);
    writeFileSync(join(folder, "bad.conf"), `[Interface]\nPrivateKey = ${KEY}\nNonsense = 1\n`);
    assert.throws(() => read("bad"), /bad\.conf, line 3: Nonsense is not a key of \[Interface\]/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

files.run();

const commands = suite("commands of the system");

commands("one that fails is an error that names it; input is handed over, read or not", async () => {
  const system = new LinuxSystem();
  system.say = () => {};
  const file = join(mkdtempSync(join(tmpdir(), "quick-")), "file");
  await system.run(["sh", "-c", `cat > ${file}`], "text\n");
  assert.equal(readFileSync(file, "utf8"), "text\n");
  rmSync(dirname(file), { recursive: true });
  const code = "ERR_COMMAND";
  await assert.rejects(system.run(["false", "1"]), { code, message: `"false 1" ended with 1` });
  await assert.rejects(system.run(["no-such-program"]), { code, message: `"no-such-program" cannot run: ENOENT` });
  await assert.rejects(system.shell("exit 7", undefined), { code, message: `"exit 7" ended with 7` });
  await assert.rejects(system.shell("kill -9 $$", undefined), { message: `"kill -9 $$" ended with SIGKILL` });
  await system.run(["true"], "x".repeat(1 << 20)); // ended before it read that
});

commands("questions never fail", async () => {
  const system = new LinuxSystem();
  assert.equal(await system.query(["echo", "yes"]), "yes\n");
  assert.equal(await system.query(["sh", "-c", "echo no; exit 1"]), "");
  assert.equal(await system.query(["no-such-program"]), "");
  assert.equal(system.read("/no/such/file"), "");
  assert.deepEqual([system.has("sh"), system.has("no-such-program")], [true, false]);
});

commands("a hook may leave something running that holds its output", async () => {
  const system = new LinuxSystem();
  system.say = () => {};
  const file = join(mkdtempSync(join(tmpdir(), "quick-")), "pid");
  await system.shell(`sleep 60 & echo $! > ${file}`, undefined);
  process.kill(Number(readFileSync(file, "utf8")), "SIGKILL"); // it runs still
  rmSync(dirname(file), { recursive: true });
});

commands("aborted, it ends what runs and runs no more", async () => {
  const aborter = new AbortController();
  const system = new LinuxSystem(aborter.signal);
  system.say = () => {};
  const running = assert.rejects(system.shell("exec sleep 60", undefined), /enough/);
  setTimeout(() => aborter.abort(new Error("enough")), 50);
  await running;
  await assert.rejects(system.run(["true"]), /enough/);
});

commands.run();

// The stand-in for ip, wg, nft and the others: writes down what changes something, answers what asks.
const STAND_IN = `#!/bin/bash
here="\${0%/*}"; me="\${0##*/}"; line="$me\${1:+ }$*"
input() { while read -r text || [[ -n $text ]]; do [[ -z $text ]] || echo "< \${text}" >> "$here/log"; done; }
answer() { [[ ! -e "$here/answers/\${line//\\//|}" ]] || cat "$here/answers/\${line//\\//|}"; }
case "$line" in
"wg show"*" fwmark") cat "$here/fwmark";;
"wg set"*fwmark*) echo "$line" >> "$here/log"; echo "$4" > "$here/fwmark";;
"wg setconf"*) ;;
"ip link add"*) echo interface >> "$here/log";;
nft\\ -f*) echo nft >> "$here/log"; input < "$3\${2#-f}";;
*-restore*|resolvconf\\ -a*) echo "$line" >> "$here/log"; input;;
"ip "*" rule delete table main"*) echo "$line" >> "$here/log"; sed -i '/suppress_prefixlength 0/d' "$here/answers/ip $1 rule show";;
"ip "*" rule delete"*) echo "$line" >> "$here/log"; sed -i "/lookup $5$/d" "$here/answers/ip $1 rule show";;
*\\ show*|"ip route get"*|"nft list"*|*-save|"resolvconf -l"*) answer;;
*) echo "$line" >> "$here/log";;
esac
`;

const oracle = suite("the real wg-quick does the same");

/** What wg-quick does, in a folder where everything it calls is ours. */
function wgQuick(each: Case): { up: string[]; down: string[] } {
  const folder = mkdtempSync(join(tmpdir(), "wg-quick-"));
  try {
    copyFileSync(WG_QUICK!, join(folder, "wg-quick"));
    writeFileSync(join(folder, "stand-in"), STAND_IN, { mode: 0o755 });
    const programs = (each.programs ?? PROGRAMS).filter((program) => program !== "bash");
    for (const program of ["ip", "wg", "sysctl", "hook", ...programs]) symlinkSync("stand-in", join(folder, program));
    const config = parseConfig(configText(each));
    const [peer] = config.peers;
    const answers: Record<string, string> = {
      ...each.answers,
      "wg show interfaces": `${NAME}\n`,
      [`wg show ${NAME} allowed-ips`]: `${KEY}\t${peer.allowedIps.map(formatPrefix).join(" ")}\n`,
      [`wg show ${NAME} endpoints`]: `${KEY}\t${/Endpoint = (.*)/.exec(each.peer)?.[1] ?? "(none)"}\n`,
    };
    mkdirSync(join(folder, "answers"));
    for (const [line, text] of Object.entries(answers)) {
      writeFileSync(join(folder, "answers", line.replaceAll("/", "|")), text);
    }
    const { fwmark } = config.interface;
    writeFileSync(join(folder, "fwmark"), fwmark ? `0x${fwmark.toString(16)}\n` : "off\n");
    const file = join(folder, `${NAME}.conf`);
    writeFileSync(file, configText(each), { mode: 0o600 });
    const [up, down] = ["up", "down"].map((command) => {
      writeFileSync(join(folder, "log"), "");
      execFileSync("/bin/bash", [join(folder, "wg-quick"), command, file], {
        env: { PATH: "/usr/bin:/bin" },
        stdio: "pipe",
      });
      return readFileSync(join(folder, "log"), "utf8").split("\n").filter(Boolean).map((line) => line.trimEnd());
    });
    return { up, down };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (WG_QUICK === undefined || process.getuid?.() !== 0) {
  cannotRun("the real wg-quick does the same", "it needs wg-quick and root");
} else {
  for (const each of CASES) {
    oracle(each.name, () => {
      const { up, down } = wgQuick(each);
      assert.deepEqual(up, each.up);
      assert.deepEqual(firewallFirst(down), each.down);
    });
  }
}

/** wg-quick's down takes name servers and firewall away after the interface, but before PostDown; ours before it. */
function firewallFirst(down: string[]): string[] {
  const link = down.findIndex((line) => line.startsWith("ip link delete"));
  const isHook = (line: string): boolean => line.startsWith("hook ");
  const after = down.slice(link + 1);
  return [...after.filter((line) => !isHook(line)), ...down.slice(0, link + 1), ...after.filter(isHook)];
}

oracle.run();
