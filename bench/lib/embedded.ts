// One end of an embedded tunnel as a process of its own: a TCP connection through it, as fast as it goes, on the stack's
// own connections or on the tunnel's streams. Driven by lines of JSON, which every runtime can read and write.
//
//   listener   -> { port }                     <- ListenerOrder
//   dialer                                     <- DialerOrder
//   both       -> { bytes, ms, cpuSeconds }

import process from "node:process";
import { createInterface } from "node:readline";
import { type CoreBuild, compileCore, fastestBuild } from "../../host/core.ts";
import { parseIp, parsePrefix } from "../../host/ip.ts";
import { createPeerChange } from "../../host/model.ts";
import { Stack } from "../../host/netstack/stack.ts";
import type { InPacket, TcpConnection } from "../../host/netstack/types.ts";
import { fillRandom } from "../../host/platform/random.ts";
import { openPortable } from "../../host/portable.ts";
import { UdpTransport } from "../../host/transport/udp.ts";
import { Tunnel } from "../../host/tunnel/tunnel.ts";
import { decodeBase64Key } from "../../host/keys.ts";

export interface Order {
  /** base64 */
  privateKey: string;
  peerKey: string;
  /** where the other end is; null = it will call */
  peerPort: number | null;
  carriage: "native" | "udp";
  level: "stack" | "tunnel";
  /** default: the fastest here */
  build?: CoreBuild;
  /** how long the dialer writes */
  seconds: number;
}

export interface Report {
  /** of payload after the first WARM_MS */
  bytes: number;
  ms: number;
  /** of all threads, in that time */
  cpuSeconds: number;
}

const LISTENER = "10.0.0.2";
const DIALER = "10.0.0.1";
const PORT = 5001;
/** compilers at work, and slow start */
const WARM_MS = 500;
const PIECE = new Uint8Array(256 << 10).fill(7);

/** Counts from WARM_MS after the first byte on. */
class Meter {
  #begun = 0;
  #end = 0;
  #bytes = 0;
  #cpu = 0;
  #endCpu = 0;
  #counts = false;

  count(bytes: number): void {
    const now = performance.now();
    this.#begun ||= now;
    if (this.#counts) {
      this.#bytes += bytes;
      this.#end = now;
      this.#endCpu = cpuSeconds();
    } else if (now - this.#begun >= WARM_MS) {
      this.#counts = true;
      this.#begun = now;
      this.#cpu = cpuSeconds();
    }
  }

  report(): Report {
    return { bytes: this.#bytes, ms: this.#end - this.#begun, cpuSeconds: this.#endCpu - this.#cpu };
  }
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

/** The order, which is the first line of our input. */
async function readOrder(): Promise<Order> {
  const lines = createInterface({ input: process.stdin });
  for await (const line of lines) {
    lines.close();
    return JSON.parse(line) as Order;
  }
  throw new Error("no order came");
}

async function overStack(order: Order, build: CoreBuild): Promise<void> {
  const isListener = order.peerPort === null;
  let stack: Stack | null = null;
  const device = await openPortable({
    build,
    transport: order.carriage,
    address: "127.0.0.1",
    onInput: (packet: InPacket) => stack?.input(packet),
  });
  stack = new Stack({
    link: device.link,
    addresses: [parseIp(isListener ? LISTENER : DIALER)],
    random: fillRandom,
    clock: {
      now: () => performance.now(),
      setTimer: (callback, delayMs) => setTimeout(callback, delayMs),
      clearTimer: (timer) => clearTimeout(timer as NodeJS.Timeout),
    },
  });
  const endpoint = order.peerPort ? { ...parseIp("127.0.0.1"), port: order.peerPort, scope: 0 } : undefined;
  const allowedIps = [{ ip: parsePrefix(`${isListener ? DIALER : LISTENER}/32`), remove: false }];
  const peer = { ...createPeerChange(decodeBase64Key(order.peerKey)), endpoint, allowedIps };
  await device.configure({ privateKey: decodeBase64Key(order.privateKey), replacePeers: false, peers: [peer] });
  await device.up();
  const meter = new Meter();
  const closed = (connection: TcpConnection): Promise<void> =>
    new Promise((resolve, reject) => (connection.onClosed = (error) => (error ? reject(error) : resolve())));
  if (isListener) {
    say({ port: device.listenPort });
    const connection = await new Promise<TcpConnection>((resolve) => (stack.tcp.listen(PORT).onConnection = resolve));
    const read = (): void => {
      for (let bytes = connection.read(); bytes; bytes = connection.read()) meter.count(bytes.length);
      if (connection.ended) connection.shutdown();
    };
    connection.onReadable = read;
    read();
    await closed(connection);
  } else {
    const connection = stack.tcp.connect({ ...parseIp(LISTENER), port: PORT });
    const done = closed(connection);
    const begun = performance.now();
    const write = (): void => {
      if (performance.now() - begun >= order.seconds * 1000 + WARM_MS) return connection.shutdown();
      for (let taken = connection.write(PIECE); taken > 0; taken = connection.write(PIECE)) meter.count(taken);
    };
    connection.onConnected = write;
    connection.onWritable = write;
    await done;
  }
  say(meter.report());
  stack.close();
  await device.close();
}

async function overTunnel(order: Order, build: CoreBuild): Promise<void> {
  const isListener = order.peerPort === null;
  const config = [
    "[Interface]",
    `PrivateKey = ${order.privateKey}`,
    `Address = ${isListener ? LISTENER : DIALER}/32`,
    "[Peer]",
    `PublicKey = ${order.peerKey}`,
    `AllowedIPs = ${isListener ? DIALER : LISTENER}/32`,
    ...(order.peerPort ? [`Endpoint = 127.0.0.1:${order.peerPort}`] : []),
  ].join("\n");
  const transport = order.carriage === "udp" ? new UdpTransport({ address: "127.0.0.1" }) : undefined;
  const tunnel = await Tunnel.open(config, { build, transport });
  const meter = new Meter();
  if (isListener) {
    say({ port: tunnel.stats().listenPort });
    await new Promise<void>((resolve) =>
      tunnel.listen({ port: PORT }, (socket) => {
        socket.on("data", (bytes: Uint8Array) => meter.count(bytes.length));
        socket.on("end", () => socket.end());
        socket.on("close", resolve);
      }),
    );
  } else {
    const socket = tunnel.connect({ host: LISTENER, port: PORT });
    await socket.opened;
    const begun = performance.now();
    const write = (): void => {
      while (performance.now() - begun < order.seconds * 1000 + WARM_MS) {
        meter.count(PIECE.length);
        if (!socket.write(PIECE)) return;
      }
      socket.end();
    };
    socket.on("drain", write);
    socket.resume();
    const closed = new Promise((resolve) => socket.on("close", resolve));
    write();
    await closed;
  }
  say(meter.report());
  await tunnel.close();
}

if (process.argv[1]?.endsWith("embedded.ts")) {
  const order = await readOrder();
  const build = order.build ?? (await fastestBuild());
  await compileCore(build);
  await (order.level === "stack" ? overStack : overTunnel)(order, build);
}
