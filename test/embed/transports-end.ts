// Opens each transport, passes a datagram each way, closes it, and then has nothing left to do: transports.test.ts sees
// whether the process ends.
import { MessageChannel } from "node:worker_threads";
import type { Endpoint } from "../../host/endpoint.ts";
import { PORT_ENDPOINT, type PortLike, PortTransport } from "../../host/transport/port.ts";
import { Relay } from "../../host/transport/relay.ts";
import type { TransportSocket } from "../../host/transport/types.ts";
import { UdpTransport } from "../../host/transport/udp.ts";
import { WebSocketTransport } from "../../host/transport/websocket.ts";

const loopback = (port: number): Endpoint => ({ family: 4, address: Uint8Array.of(127, 0, 0, 1), port, scope: 0 });

/** A data message, as a relay wants to see one. */
const datagram = Uint8Array.from({ length: 48 }, (_, i) => (i === 0 ? 4 : i < 4 ? 0 : i));

async function pass(name: string, from: TransportSocket, to: TransportSocket, endpoint: Endpoint): Promise<void> {
  to.onDatagram = (bytes, sender) => to.send(bytes.slice(), sender);
  const back = new Promise<number>((resolve) => (from.onDatagram = ({ length }) => resolve(length)));
  from.send(datagram, endpoint);
  console.log(`${name} ${(await back) === datagram.length ? "passed" : "failed"}`);
}

const udp = new UdpTransport({ address: "127.0.0.1" });
const right = await udp.bind(0);
const left = await udp.bind(0);
await pass("udp", left, right, loopback(right.port));

const relay = new Relay({ allow: [`127.0.0.1:${right.port}`] });
const { port } = await relay.listen(0, "127.0.0.1");
const client = await new WebSocketTransport({ relay: `ws://127.0.0.1:${port}` }).bind(0);
await pass("websocket", client, right, loopback(right.port));

const { port1, port2 } = new MessageChannel();
const ends = [port1, port2].map((each) => new PortTransport(each as unknown as PortLike));
const [first, second] = [await ends[0].bind(0), await ends[1].bind(0)];
await pass("port", first, second, PORT_ENDPOINT);

// The ports themselves stay open: without a socket they keep nothing alive.
for (const socket of [left, right, client, first, second]) socket.close();
await relay.close();
