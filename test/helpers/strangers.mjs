// Sends datagrams that no peer sent to PORT and ADDRESS: every type of message with a wrong or a right size and random
// bytes inside, and random bytes of every size.
import { createSocket } from "node:dgram";
import { randomBytes } from "node:crypto";
import process from "node:process";

const SHAPES = [
  [1, 148], [2, 92], [3, 64], [4, 32], [4, 48], [4, 1452], [0, 16], [5, 148], // right sizes, two types that are none
  [1, 147], [1, 149], [2, 93], [4, 31], [4, 33], [4, 1], [255, 0],
];

const [port, address] = process.argv.slice(2);
const datagrams = Array.from({ length: 300 }, (_, i) => randomBytes(i * 5));
for (const [type, size] of SHAPES) {
  for (let i = 0; i < 20; i++) {
    const datagram = randomBytes(size);
    Buffer.from([type, 0, 0, 0]).copy(datagram);
    datagrams.push(datagram);
  }
}
const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
let left = datagrams.length;
for (const datagram of datagrams) socket.send(datagram, Number(port), address, () => --left || socket.close());
