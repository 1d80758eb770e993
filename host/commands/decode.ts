// wasmguard decode: the WireGuard messages of a capture file, field by field, decrypted as far as the keys allow.

import { readFileSync, statSync } from "node:fs";
import process from "node:process";
import { type Dissection, Dissector, hex } from "../capture/dissector.ts";
import { parseKeyLog } from "../capture/keylog.ts";
import { type CaptureItem, readCapture, SECRETS_WIREGUARD } from "../capture/pcapng.ts";
import { Primitives } from "../capture/primitives.ts";
import { udpDatagram, type Side, type UdpDatagram } from "../capture/udp-packet.ts";
import { WasmguardError } from "../errors.ts";
import { formatIp } from "../ip.ts";
import { atMost, type Command, parse, style, UsageError } from "./command.ts";

const options = {
  keys: { type: "string" },
  port: { type: "string" },
  steps: { type: "boolean" },
  json: { type: "boolean" },
} as const;

/** More than any capture that somebody reads by eye; the whole file is held in memory. */
const FILE_MAX_SIZE = 512 << 20;

export const command: Command = {
  help: `Usage: wasmguard decode FILE [OPTIONS]

Prints the WireGuard messages of a capture (pcap or pcapng) field by field. Keys inside of a pcapng are used as they come.

      --keys FILE   a key log, as wasmguard --keylog and Wireshark have it
      --port PORT   look only at datagrams from or to this UDP port
      --steps       the chaining key, hash and key after each token of a handshake: secrets
      --json        one JSON object a message
`,
  async run(args) {
    const { values, positionals } = parse(args, options);
    const [path] = positionals;
    if (path === undefined) throw new UsageError("name a capture file, as in: wasmguard decode wg0.pcapng");
    atMost(positionals, 1);
    const port = values.port === undefined ? null : Number(values.port);
    if (port !== null && !(Number.isInteger(port) && port >= 1 && port <= 65535)) throw new UsageError(`--port ${values.port} is not in 1..65535`);
    const dissector = new Dissector(await Primitives.open());
    if (values.keys !== undefined) dissector.addKeys(parseKeyLog(read(values.keys).toString("utf8")));
    const counts = { messages: 0, other: 0 };
    let number = 0;
    try {
      for (const item of readCapture(read(path))) {
        if (item.type === "secrets") {
          if (item.kind === SECRETS_WIREGUARD) dissector.addKeys(parseKeyLog(item.text));
          continue;
        }
        number++;
        const datagram = udpDatagram(item.bytes, item.linkType);
        if (!datagram || (port !== null && datagram.source.port !== port && datagram.destination.port !== port)) {
          counts.other++;
          continue;
        }
        const dissection = dissector.dissect(datagram.payload);
        counts.messages++;
        process.stdout.write(values.json ? toJson(number, item, datagram, dissection, values.steps === true) : toText(number, item, datagram, dissection, values.steps === true));
      }
    } finally {
      if (!values.json) process.stdout.write(`${counts.messages} messages${counts.other ? `, ${counts.other} other packets` : ""}\n`);
    }
  },
};

function read(path: string): Buffer {
  try {
    const { size } = statSync(path);
    if (size > FILE_MAX_SIZE) throw new WasmguardError("EFBIG", `Cannot read ${path}: ${size} bytes, and ${FILE_MAX_SIZE} is the most; cut it with editcap`);
    return readFileSync(path);
  } catch (error) {
    if (error instanceof WasmguardError) throw error;
    throw new WasmguardError((error as NodeJS.ErrnoException).code ?? "EIO", `Cannot read ${path}: ${(error as Error).message}`);
  }
}

function formatSide({ address, port }: Side): string {
  return address.length === 4 ? `${formatIp(address)}:${port}` : `[${formatIp(address)}]:${port}`;
}

function formatTime(nanoseconds: bigint): string {
  const date = new Date(Number(nanoseconds / 1_000_000n));
  if (Number.isNaN(date.getTime())) return "?";
  return `${date.toISOString().slice(0, 19).replace("T", " ")}.${String(nanoseconds % 1_000_000_000n).padStart(9, "0").slice(0, 6)}`;
}

type Packet = CaptureItem & { type: "packet" };

const [bold, dim, red, green] = [1, 2, 31, 32].map(style);

function toText(number: number, packet: Packet, datagram: UdpDatagram, { type, fields, steps, notes }: Dissection, withSteps: boolean): string {
  const where = `${formatSide(datagram.source)} > ${formatSide(datagram.destination)}`;
  const lines = [`${bold(`#${number} ${type}`)}  ${datagram.payload.length} bytes  ${where}  ${dim(formatTime(packet.nanoseconds))}`];
  for (const { name, offset, length, value, valid } of fields) {
    const verdict = valid === undefined ? "" : valid ? green("  ok") : red("  wrong");
    lines.push(`  ${dim(`${offset}+${length}`.padEnd(9))}${name.padEnd(10)} ${value}${verdict}`);
  }
  if (withSteps) {
    for (const { token, what, chainingKey, hash, key } of steps) {
      lines.push(`  ${token.padEnd(6)} ${what}`, `         C = ${hex(chainingKey)}`, `         H = ${hex(hash)}`);
      if (key) lines.push(`         k = ${hex(key)}`);
    }
  }
  for (const note of notes) lines.push(`  ${red(`- ${note}`)}`);
  return `${lines.join("\n")}\n\n`;
}

function toJson(number: number, packet: Packet, datagram: UdpDatagram, { type, fields, steps, notes, inner }: Dissection, withSteps: boolean): string {
  const shown = {
    number, time: formatTime(packet.nanoseconds), source: formatSide(datagram.source), destination: formatSide(datagram.destination),
    length: datagram.payload.length, type, fields, notes,
    inner: inner && hex(inner),
    steps: withSteps ? steps.map(({ token, what, chainingKey, hash, key }) => ({ token, what, chainingKey: hex(chainingKey), hash: hex(hash), key: key && hex(key) })) : undefined,
  };
  return `${JSON.stringify(shown)}\n`;
}
