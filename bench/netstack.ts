// How much does TCP of the netstack itself cost? Two layers back to back in one process and on one thread, no tunnel
// and no IP layer between them: each packet is copied once, as a link does, and handed to the other side. So the figure
// is of both ends together. Super-segments pass whole, as through the core's segmentation and coalescing; plain packets
// are those of a link of 1420 bytes. Printed only: `node bench/netstack.ts [seconds]`.

import { parseIp, type IpAddress } from "../host/ip.ts";
import { Tcp } from "../host/netstack/tcp/layer.ts";
import type { IpHeader, IpLayer, Outgoing, TcpConnection } from "../host/netstack/types.ts";

const SECONDS = Number(process.argv[2] ?? 2);
const MTU = 1420;
const SLOT_LEN = 65_536;
const SLOT_COUNT = 256;

/** One end, and the packets on their way to it: a ring of slots. */
class End implements IpLayer {
  readonly clock = {
    now: () => performance.now(),
    setTimer: (callback: () => void, delayMs: number): unknown => setTimeout(callback, delayMs),
    clearTimer: (timer: unknown): void => clearTimeout(timer as NodeJS.Timeout),
  };
  readonly address: IpAddress;
  readonly gsoMaxSize: number;
  readonly tcp: Tcp;
  peer: End | null = null;
  packets = 0;
  private readonly slots = Array.from({ length: SLOT_COUNT }, () => new Uint8Array(SLOT_LEN));
  private readonly lens = new Uint32Array(SLOT_COUNT);
  private head = 0;
  private tail = 0;
  private readonly header: IpHeader;

  constructor(address: string, from: string, gsoMaxSize: number) {
    this.address = parseIp(address);
    this.gsoMaxSize = gsoMaxSize;
    this.tcp = new Tcp(this);
    this.header = {
      family: 4,
      source: parseIp(from).address,
      destination: this.address.address,
      protocol: 6,
      trafficClass: 0,
      hopLimit: 64,
    };
  }

  random(bytes: Uint8Array): void {
    bytes.set(crypto.getRandomValues(new Uint8Array(bytes.length)));
  }

  send(packet: Outgoing): void {
    this.peer?.put(packet);
  }

  pathMtu(): number {
    return MTU;
  }

  sourceFor(): IpAddress {
    return this.address;
  }

  isOurs(): boolean {
    return true;
  }

  private put(packet: Outgoing): void {
    if (this.tail - this.head >= SLOT_COUNT) return; // a full queue drops, as everywhere
    const slot = this.slots[this.tail % SLOT_COUNT];
    slot.set(packet.header);
    let at = packet.header.length;
    for (const piece of packet.payload) {
      slot.set(piece, at);
      at += piece.length;
    }
    this.lens[this.tail++ % SLOT_COUNT] = at;
  }

  /** @returns whether there was something to take */
  pump(): boolean {
    if (this.head === this.tail) return false;
    for (const stop = this.tail; this.head < stop; this.packets++) {
      const at = this.head % SLOT_COUNT;
      const bytes = this.slots[at].subarray(0, this.lens[at]);
      this.tcp.input(this.header, bytes, { bytes, gsoSize: 0, checksumVerified: true });
      this.head++;
    }
    return true;
  }
}

async function measure(name: string, gsoMaxSize: number): Promise<void> {
  const a = new End("10.0.0.1", "10.0.0.2", gsoMaxSize);
  const b = new End("10.0.0.2", "10.0.0.1", gsoMaxSize);
  a.peer = b;
  b.peer = a;
  let received = 0;
  b.tcp.listen(80).onConnection = (connection) => {
    connection.onReadable = () => {
      for (let bytes = connection.read(); bytes !== null; bytes = connection.read()) received += bytes.length;
    };
  };
  const client: TcpConnection = a.tcp.connect({ ...b.address, port: 80 });
  const chunk = new Uint8Array(262_144);
  const write = (): void => {
    while (client.write(chunk) === chunk.length);
  };
  client.onConnected = client.onWritable = write;
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const run = async (seconds: number): Promise<number> => {
    const start = performance.now();
    while (performance.now() - start < seconds * 1000) {
      for (let i = 0; i < 50 && (b.pump() || a.pump()); i++);
      await turn();
    }
    return performance.now() - start;
  };
  await run(0.5);
  received = a.packets = b.packets = 0;
  const cpu = process.cpuUsage();
  const ms = await run(SECONDS);
  const { user, system } = process.cpuUsage(cpu);
  const info = client.info();
  const gbits = (received * 8) / ms / 1e6;
  const cpuMs = (user + system) / 1000;
  console.log(
    `${name.padEnd(16)} ${gbits.toFixed(2)} Gbit/s (${(received / ms / 1000).toFixed(0)} MB/s), ` +
      `${((cpuMs * 1000) / (a.packets + b.packets)).toFixed(2)} us of CPU a packet, ` +
      `${Math.round(received / b.packets)} bytes a packet, ${info.retransmits} retransmits, ` +
      `window ${info.congestionWindow}`,
  );
  a.tcp.close();
  b.tcp.close();
}

await measure("super-segments", 65_535);
await measure("plain packets", 0);
