// The embedded device over node:dgram, and over transports that behave in ways no socket does.
import assert from "node:assert/strict";
import { suite } from "uvu";
import type { Endpoint } from "../../host/endpoint.ts";
import { WasmguardError } from "../../host/errors.ts";
import { openPortable } from "../../host/portable.ts";
import type { Transport, TransportSocket } from "../../host/transport/types.ts";
import { UdpTransport } from "../../host/transport/udp.ts";
import { build, TCP } from "../offload/oracle.ts";
import { Stream } from "../../host/simulator/random.ts";
import { deviceSuite } from "./device-suite.ts";
import { between, openPair, toOutPacket, until } from "./pair.ts";

const udp = new UdpTransport({ address: "127.0.0.1" });
// Deno has neither large socket buffers nor, with its asynchronous sends, an order.
deviceSuite("portable over node:dgram", (options) => openPortable({ transport: udp, ...options }), {
  burst: 40, ordered: !("Deno" in globalThis),
});

/** Sockets of this process by port: datagrams are handed over in the next turn, none is ever lost. */
class Wire implements Transport {
  readonly #sockets = new Map<number, TransportSocket>();
  #ports = 0;

  async bind(port: number): Promise<TransportSocket> {
    const sockets = this.#sockets;
    if (sockets.has(port)) throw new WasmguardError("EADDRINUSE", `port ${port} is taken`);
    const own = port || ++this.#ports;
    const from: Endpoint = { family: 4, address: Uint8Array.of(127, 0, 0, 1), port: own, scope: 0 };
    const socket: TransportSocket = {
      port: own,
      onDatagram: null,
      onError: null,
      send(datagram, to) {
        if (to.address[0] !== 127) return socket.onError?.("ENETUNREACH");
        const copy = datagram.slice();
        setImmediate(() => {
          sockets.get(to.port)?.onDatagram?.(copy, from);
          copy.fill(0xff);
        });
      },
      close: () => void sockets.delete(own),
    };
    sockets.set(own, socket);
    return socket;
  }
}

const wire = new Wire();
deviceSuite("portable over a wire in memory", (options) => openPortable({ transport: wire, ...options }), {
  burst: Infinity, ordered: true,
});

/** Sockets of this process by port: send() calls the other's onDatagram before it returns. */
class Synchronous implements Transport {
  readonly #sockets = new Map<number, TransportSocket>();

  async bind(port: number): Promise<TransportSocket> {
    const sockets = this.#sockets;
    const own = port || sockets.size + 1;
    const from: Endpoint = { family: 4, address: Uint8Array.of(127, 0, 0, 1), port: own, scope: 0 };
    const socket: TransportSocket = {
      port: own,
      onDatagram: null,
      onError: null,
      send(datagram, to) {
        const copy = datagram.slice();
        sockets.get(to.port)?.onDatagram?.(copy, from);
        copy.fill(0xff);
      },
      close: () => void sockets.delete(own),
    };
    sockets.set(own, socket);
    return socket;
  }
}

const test = suite("portable over other transports");

test("a transport that delivers inside of send()", async () => {
  const transport = new Synchronous();
  const pair = await openPair((options) => openPortable({ ...options, transport }));
  try {
    const random = new Stream(1, "synchronous");
    const packets = Array.from({ length: 50 }, (_, i) => between(random, i % 2 === 0, 4, TCP, 100));
    let left = 20;
    for (const side of [pair.left, pair.right]) {
      side.onInput = () => {
        if (left-- > 0) side.device.link.send(toOutPacket(random, between(random, side === pair.left, 4, TCP, 100), 0));
      };
    }
    for (const fields of packets) {
      const from = packets.indexOf(fields) % 2 === 0 ? pair.left : pair.right;
      from.device.link.send(toOutPacket(random, fields, 0));
    }
    await until(() => pair.left.came.length + pair.right.came.length === 70, "packets and answers");
    const came = new Set([...pair.left.came, ...pair.right.came].map(({ bytes }) => Buffer.from(bytes).toString("hex")));
    for (const fields of packets) assert.ok(came.has(Buffer.from(build(fields)).toString("hex")), "a packet is missing");
  } finally {
    await pair.close();
  }
});

test("an address is for UDP alone", async () => {
  const wrong = openPortable({ onPacket: () => {}, transport: new UdpTransport(), address: "127.0.0.1" });
  await assert.rejects(wrong, { name: "TypeError", message: /an address is for UDP/ });
});

test("a family that the socket does not have", async () => {
  const socket = await new UdpTransport({ address: "127.0.0.1" }).bind(0);
  const errors: string[] = [];
  socket.onError = (code) => errors.push(code);
  socket.send(Uint8Array.of(1), { family: 6, address: new Uint8Array(16).fill(1), port: 9, scope: 0 });
  assert.deepEqual(errors, ["EAFNOSUPPORT"]);
  socket.send(Uint8Array.of(1), { family: 4, address: Uint8Array.of(127, 0, 0, 1), port: 0, scope: 0 });
  await until(() => errors.length === 2, "an error about port 0");
  socket.send(new Uint8Array(65_535), { family: 4, address: Uint8Array.of(127, 0, 0, 1), port: socket.port, scope: 0 });
  await until(() => errors.length === 3, "an error about the size");
  assert.equal(errors[2], "EMSGSIZE");
  socket.close();
  socket.close();
  socket.send(Uint8Array.of(1), { family: 4, address: Uint8Array.of(127, 0, 0, 1), port: 9, scope: 0 });
});

test("a port that is taken is said so", async () => {
  const transport = new UdpTransport({ address: "127.0.0.1" });
  const first = await transport.bind(0);
  await assert.rejects(transport.bind(first.port), { code: "EADDRINUSE", message: /another program has it/ });
  first.close();
});

test.run();
