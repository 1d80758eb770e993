// The recorder: writes the key log and the capture file that the user asked for. Both are secret files: mode 0600, and
// whoever starts them is told loudly. Written at once and in order: a capture is for the moment when something breaks.

import { createSocket } from "node:dgram";
import { closeSync, fstatSync, openSync, writeSync } from "node:fs";
import type { Endpoint } from "../endpoint.ts";
import { WasmguardError } from "../errors.ts";
import { formatIp, tryParseIp } from "../ip.ts";
import { encodeBase64Key } from "../keys.ts";
import { formatKeys, type HandshakeKeys } from "./keylog.ts";
import { fileHeader, packetBlock, secretsBlock } from "./pcapng.ts";
import type { Captured } from "./tap.ts";
import { udpPacket } from "./udp-packet.ts";

export interface RecorderOptions {
  /** path of a key log; lines are added at its end */
  keyLog?: string;
  /** path of a capture file; begun anew */
  pcap?: string;
  /** our private key and UDP port at this moment, for the secrets and headers of the capture */
  identity: () => { privateKey: Uint8Array | null; listenPort: number };
}

/** What waits to be written: a datagram, or key log lines for those that follow. */
type Item = Captured | string;

export class Recorder {
  readonly #identity: RecorderOptions["identity"];
  readonly #keyLog: number | null;
  readonly #pcap: number | null;
  /** our address by that of the other side, for datagrams that do not tell */
  readonly #localAddresses = new Map<string, Uint8Array>();
  #waiting: Item[] = [];
  #asking = false;
  #knownPrivateKey = "";

  /** @throws WasmguardError with the system's `code` when a file cannot be written */
  constructor({ keyLog, pcap, identity }: RecorderOptions) {
    this.#identity = identity;
    this.#keyLog = keyLog === undefined ? null : open(keyLog, "a", "key log");
    this.#pcap = pcap === undefined ? null : open(pcap, "w", "capture file");
    if (this.#pcap !== null) writeSync(this.#pcap, fileHeader("wasmguard"));
  }

  get capturesPackets(): boolean {
    return this.#pcap !== null;
  }

  /** The keys of a handshake of ours, before its message is captured. */
  keys(keys: HandshakeKeys): void {
    const lines = formatKeys(keys);
    if (this.#keyLog !== null) writeSync(this.#keyLog, lines);
    this.#add([lines]);
  }

  packets(captured: Captured[]): void {
    this.#add(captured);
  }

  close(): void {
    for (const item of this.#waiting) this.#write(item);
    this.#waiting = [];
    for (const fd of [this.#keyLog, this.#pcap]) if (fd !== null) closeSync(fd);
  }

  #add(items: Item[]): void {
    if (this.#pcap === null) return;
    this.#waiting.push(...items);
    this.#drain();
  }

  // Wireshark follows a session by addresses and ports, so a first initiation must not come from nowhere: the system is
  // asked which address of ours it takes, and what comes meanwhile waits its turn.
  #drain(): void {
    if (this.#asking) return;
    for (let i = 0; i < this.#waiting.length; i++) {
      const item = this.#waiting[i];
      if (typeof item !== "string" && !item.local && !this.#localAddresses.has(formatIp(item.remote.address))) {
        this.#waiting.splice(0, i);
        this.#ask(item.remote);
        return;
      }
      this.#write(item);
    }
    this.#waiting = [];
  }

  #ask(remote: Endpoint): void {
    this.#asking = true;
    const address = formatIp(remote.address);
    const socket = createSocket(remote.family === 4 ? "udp4" : "udp6");
    const done = (local: string): void => {
      const ip = tryParseIp(local.split("%")[0]);
      this.#localAddresses.set(address, ip?.family === remote.family ? ip.address : new Uint8Array(remote.address.length));
      socket.close();
      this.#asking = false;
      this.#drain();
    };
    socket.once("error", () => done(""));
    socket.connect(remote.port, address, () => done(socket.address().address));
  }

  #write(item: Item): void {
    const fd = this.#pcap!;
    if (typeof item === "string") return void writeSync(fd, secretsBlock(item));
    const { privateKey, listenPort } = this.#identity();
    this.#staticKey(fd, privateKey);
    const { incoming, remote, local, bytes, at } = item;
    const address = local ?? this.#localAddresses.get(formatIp(remote.address)) ?? new Uint8Array(remote.address.length);
    const ours = { address, port: listenPort };
    const packet = incoming ? udpPacket(remote, ours, bytes) : udpPacket(ours, remote, bytes);
    writeSync(fd, packetBlock(packet, BigInt(Math.round(at * 1000)) * 1000n));
  }

  // An initiation that comes to us is read with our static key alone, and no handshake of ours has told it yet.
  #staticKey(fd: number, privateKey: Uint8Array | null): void {
    if (!privateKey) return;
    const text = encodeBase64Key(privateKey);
    privateKey.fill(0);
    if (text === this.#knownPrivateKey) return;
    this.#knownPrivateKey = text;
    writeSync(fd, secretsBlock(`LOCAL_STATIC_PRIVATE_KEY = ${text}\n`));
  }
}

function open(path: string, flags: "a" | "w", what: string): number {
  let fd: number;
  try {
    fd = openSync(path, flags, 0o600);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new WasmguardError(code ?? "EIO", `Cannot write the ${what} ${path}: ${message}`, { cause: error });
  }
  // A file that was there before keeps its mode: secrets must not go where others read.
  const { mode } = fstatSync(fd);
  if ((mode & 0o077) !== 0 && (mode & 0o170000) === 0o100000) {
    closeSync(fd);
    throw new WasmguardError("EPERM", `Cannot write the ${what} ${path}: others may read it (mode ${(mode & 0o777).toString(8)}); chmod 600 it`);
  }
  return fd;
}
