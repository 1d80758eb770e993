// A process of bench/handshake.ts, in the stranger's namespace: sends initiations made in advance and counts the
// responses. A fixed number is under way at a time, few enough that nobody asks for cookies; one that is not answered
// in time is given up. Ends when all are sent or the time is over, and the last answers had their time. Prints JSON.
//
//   initiator.ts FILE ADDRESS PORT UNDERWAY SECONDS

import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { INITIATION_LEN, MESSAGE_HANDSHAKE_RESPONSE, RESPONSE_LEN } from "../../assembly/protocol.ts";

const LOST_MS = 200;

const [file, address, ...numbers] = process.argv.slice(2);
const [port, underWayMax, seconds] = numbers.map(Number);
const messages = readFileSync(file);
const socket = createSocket("udp4");
let at = 0;
let sent = 0;
let underWay = 0;
let answered = 0;
let other = 0;
const start = performance.now();
let answeredAt = start;
/** or the time when what was under way was given up */
let lastAnswer = start;

function send(): void {
  if (performance.now() > start + seconds * 1000) return;
  while (underWay < underWayMax && at < messages.length) {
    socket.send(messages.subarray(at, at + INITIATION_LEN), port, address);
    at += INITIATION_LEN;
    underWay++;
    sent++;
  }
}

function finish(): void {
  clearInterval(watch);
  socket.close();
  console.log(JSON.stringify({ sent, answered, other, seconds: (answeredAt - start) / 1000 }));
}

const watch = setInterval(() => {
  const now = performance.now();
  const isOver = now > start + seconds * 1000 || at >= messages.length;
  if (isOver && (underWay === 0 || now > lastAnswer + LOST_MS)) return finish();
  if (now > lastAnswer + LOST_MS) {
    underWay = 0;
    lastAnswer = now;
    send();
  }
}, 20);

socket.on("message", (message) => {
  if (message.length !== RESPONSE_LEN || message[0] !== MESSAGE_HANDSHAKE_RESPONSE) {
    other++;
    return;
  }
  answered++;
  answeredAt = lastAnswer = performance.now();
  underWay = Math.max(0, underWay - 1);
  send();
});
socket.bind(0, () => send());
