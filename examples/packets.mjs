// The packet level, for those who bring their own IP stack: IPv4 and IPv6 packets in and out, as bytes. Here the stack is
// a ping made by hand (RFC 791, RFC 792).
//   node examples/packets.mjs FILE.conf ADDRESS
import { lookup } from "node:dns/promises";
import { readFile } from "node:fs/promises";
import process from "node:process";
import { openPortable, parseConfig, parseIp, toDeviceChange, unresolvedHosts } from "wasmguard";

const [conf, to] = process.argv.slice(2);
const config = parseConfig(await readFile(conf, "utf8"));
const resolved = new Map();
for (const host of unresolvedHosts(config)) resolved.set(host, parseIp((await lookup(host)).address));

let answered, failed;
const answer = new Promise((...ends) => ([answered, failed] = ends));
const device = await openPortable({
  onPacket: (packet) => packet[9] === 1 && packet[20] === 0 && answered(packet),
});
await device.configure(toDeviceChange(config, resolved));
await device.up();

const source = config.interface.addresses.find(({ family }) => family === 4).address;
device.send(echoRequest(source, parseIp(to).address));
const late = setTimeout(() => failed(new Error("no answer in 5 seconds")), 5000);
try {
  const packet = await answer;
  console.log(`${packet.length} bytes from ${packet.subarray(12, 16).join(".")}`);
} finally {
  clearTimeout(late);
  device.close();
}

function echoRequest(from, destination) {
  const packet = new Uint8Array(20 + 64);
  const view = new DataView(packet.buffer);
  packet.set([0x45, 0, 0, packet.length, 0, 0, 0x40, 0, 64, 1]);
  packet.set(from, 12);
  packet.set(destination, 16);
  view.setUint16(10, checksum(packet.subarray(0, 20)));
  packet[20] = 8;
  view.setUint16(22, checksum(packet.subarray(20)));
  return packet;
}

/** RFC 1071 */
function checksum(bytes) {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i] << 8) | bytes[i + 1];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
