// The recorder: writes the key log and the capture file that the user asked for. Both are secret files: mode 0600, and
// whoever starts them is told loudly. Written at once: a capture is for the moment when something breaks. (Lanes tell
// what passed them on their own, so a reply may stand before its request; the times are right.) A file that cannot be
// written any more (a full disk) is given up, and the tunnel goes on without it.

import { closeSync, constants, fstatSync, ftruncateSync, openSync, writeSync } from "node:fs";
import type { Endpoint } from "../endpoint.ts";
import { WasmguardError } from "../errors.ts";
import { formatIp } from "../ip.ts";
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
  /** the address of ours that datagrams to there leave from; null = unknown */
  localAddressTo: (remote: Endpoint) => Uint8Array | null;
  /** once for a file that cannot be written any more; nothing is added to it from then on */
  onFailed?: (error: WasmguardError) => void;
}

/** addresses of ours that are remembered, by those of the other side */
const LOCAL_ADDRESSES_MAX = 1024;

export class Recorder {
  readonly #identity: RecorderOptions["identity"];
  readonly #keyLog: number | null;
  readonly #pcap: number | null;
  readonly #localAddressTo: RecorderOptions["localAddressTo"];
  readonly #onFailed: (error: WasmguardError) => void;
  readonly #failed = new Set<number>();
  /** our address by that of the other side, for datagrams that do not tell */
  readonly #localAddresses = new Map<string, Uint8Array>();
  #knownPrivateKey = "";

  /** @throws WasmguardError with the system's `code` when a file cannot be written */
  constructor({ keyLog, pcap, identity, localAddressTo, onFailed = () => {} }: RecorderOptions) {
    this.#identity = identity;
    this.#localAddressTo = localAddressTo;
    this.#onFailed = onFailed;
    this.#keyLog = keyLog === undefined ? null : open(keyLog, "key log");
    this.#pcap = pcap === undefined ? null : open(pcap, "capture file");
    if (this.#pcap !== null) writeSync(this.#pcap, fileHeader("wasmguard"));
  }

  get capturesPackets(): boolean {
    return this.#pcap !== null;
  }

  /** The keys of a handshake of ours, before its message is captured. */
  keys(keys: HandshakeKeys): void {
    const lines = formatKeys(keys);
    if (this.#keyLog !== null) this.#save(this.#keyLog, lines);
    if (this.#pcap !== null) this.#save(this.#pcap, secretsBlock(lines));
  }

  packets(captured: Captured[]): void {
    if (this.#pcap === null || this.#failed.has(this.#pcap)) return;
    const { privateKey, listenPort } = this.#identity();
    this.#staticKey(this.#pcap, privateKey);
    for (const datagram of captured) this.#write(this.#pcap, datagram, listenPort);
  }

  close(): void {
    for (const fd of [this.#keyLog, this.#pcap]) if (fd !== null) closeSync(fd);
  }

  #write(fd: number, { incoming, remote, local, bytes, at }: Captured, listenPort: number): void {
    const ours = { address: local ?? this.#localAddress(remote), port: listenPort };
    const packet = incoming ? udpPacket(remote, ours, bytes) : udpPacket(ours, remote, bytes);
    this.#save(fd, packetBlock(packet, BigInt(Math.round(at * 1000)) * 1000n));
  }

  // Wireshark follows a session by addresses and ports, so a first initiation must not come from nowhere.
  #localAddress(remote: Endpoint): Uint8Array {
    const key = formatIp(remote.address);
    const known = this.#localAddresses.get(key);
    if (known) return known;
    const address = this.#localAddressTo(remote) ?? new Uint8Array(remote.address.length);
    if (this.#localAddresses.size >= LOCAL_ADDRESSES_MAX) this.#localAddresses.clear();
    this.#localAddresses.set(key, address);
    return address;
  }

  #save(fd: number, bytes: Uint8Array | string): void {
    if (this.#failed.has(fd)) return;
    try {
      writeSync(fd, typeof bytes === "string" ? Buffer.from(bytes) : bytes);
    } catch (error) {
      this.#failed.add(fd);
      const { code = "EIO" } = error as NodeJS.ErrnoException;
      const what = fd === this.#pcap ? "capture file" : "key log";
      this.#onFailed(new WasmguardError(code, `Cannot write the ${what} any more, it ends here: ${code}`, { cause: error }));
    }
  }

  // An initiation that comes to us is read with our static key alone, and no handshake of ours has told it yet.
  #staticKey(fd: number, privateKey: Uint8Array | null): void {
    if (!privateKey) return;
    const text = encodeBase64Key(privateKey);
    privateKey.fill(0);
    if (text === this.#knownPrivateKey) return;
    this.#knownPrivateKey = text;
    this.#save(fd, secretsBlock(`LOCAL_STATIC_PRIVATE_KEY = ${text}\n`));
  }
}

function open(path: string, what: "key log" | "capture file"): number {
  const { O_WRONLY, O_CREAT, O_APPEND } = constants;
  let fd: number;
  try {
    fd = openSync(path, O_WRONLY | O_CREAT | (what === "key log" ? O_APPEND : 0), 0o600);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new WasmguardError(code ?? "EIO", `Cannot write the ${what} ${path}: ${message}`, { cause: error });
  }
  // A file that was there before keeps its mode: secrets must not go where others read.
  const stat = fstatSync(fd);
  const { mode } = stat;
  if ((mode & 0o077) !== 0 && stat.isFile()) {
    closeSync(fd);
    throw new WasmguardError("EPERM", `Cannot write the ${what} ${path}: others may read it (mode ${(mode & 0o777).toString(8)}); chmod 600 it`);
  }
  // Not by opening it: a file that is refused stays as it was.
  if (what === "capture file" && stat.isFile()) ftruncateSync(fd, 0);
  return fd;
}
