// The kernel's TCP and UDP in a namespace, told what to do by lines of JSON on stdin, and answering on stdout.
//
// Modes of a connection, listened for or made:
//   sink    reads to the end, checks the pattern, ends, and reports
//   source  sends `bytes` of the pattern (0 = without end), ends, reads to the end, and reports
//   echo    sends back what comes; ends when the other does
//   stall   reads nothing until "resume", then as a sink
//   reset   RST at the first byte
//   count   reads and counts: asked for by "count"
// "stop" ends all connections at once.
// Every connection that ends is reported: { done: port, received, sent, wrong, error }.
import { execFile } from "node:child_process";
import dgram from "node:dgram";
import net from "node:net";
import process from "node:process";
import readline from "node:readline";
import { Pattern } from "./pattern.mjs";

const CHUNK_LEN = 65_536;
const pattern = new Pattern(7);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
/** bytes received by connections in mode count */
let counted = 0;
const stalled = new Set();
const open = new Set();

function run(socket, port, mode, bytes) {
  const state = { received: 0, sent: 0, wrong: -1, error: null };
  const check = mode === "sink" || mode === "stall";
  socket.setNoDelay(true);
  socket.on("error", (error) => (state.error = error.code ?? String(error)));
  open.add(socket);
  socket.on("close", () => {
    open.delete(socket);
    say({ done: port, ...state });
  });
  socket.on("data", (chunk) => {
    if (mode === "reset") return void socket.resetAndDestroy();
    if (check && state.wrong < 0) state.wrong = pattern.mismatch(chunk, state.received);
    state.received += chunk.length;
    if (mode === "count") counted += chunk.length;
    if (mode !== "echo") return;
    state.sent += chunk.length;
    if (!socket.write(chunk)) {
      socket.pause();
      socket.once("drain", () => socket.resume());
    }
  });
  socket.on("end", () => {
    if (mode !== "source") socket.end();
  });
  if (mode === "stall") {
    socket.pause();
    stalled.add(socket);
  }
  if (mode === "source") send(socket, state, bytes);
}

function send(socket, state, bytes) {
  const endless = bytes === 0 ? pattern.bytes(0, CHUNK_LEN) : null;
  const more = () => {
    while (endless || state.sent < bytes) {
      const length = endless ? CHUNK_LEN : Math.min(CHUNK_LEN, bytes - state.sent);
      const room = socket.write(endless ?? pattern.bytes(state.sent, length));
      state.sent += length;
      if (!room) return void socket.once("drain", more);
    }
    socket.end();
  };
  more();
}

const commands = {
  listen({ mode, bytes }) {
    return new Promise((resolve, reject) => {
      let port = 0;
      const server = net.createServer({ allowHalfOpen: true }, (socket) => run(socket, port, mode, bytes));
      server.on("error", reject);
      server.listen({ port: 0, host: "::", backlog: 512 }, () => {
        ({ port } = server.address());
        resolve({ port });
      });
    });
  },
  connect({ host, port, mode, bytes }) {
    run(net.connect({ host, port, allowHalfOpen: true }), port, mode, bytes);
    return {};
  },
  udp({ family }) {
    return new Promise((resolve) => {
      const socket = dgram.createSocket(family === 4 ? "udp4" : "udp6");
      socket.on("message", (message, from) => socket.send(message, from.port, from.address));
      socket.bind(0, () => resolve({ port: socket.address().port }));
    });
  },
  resume() {
    for (const socket of stalled) socket.resume();
    stalled.clear();
    return {};
  },
  count: () => ({ counted }),
  stop() {
    for (const socket of open) socket.destroy();
    return {};
  },
  exec: ({ program, args }) =>
    new Promise((resolve) => {
      execFile(program, args, (error, stdout, stderr) =>
        resolve({ code: error ? (error.code ?? 1) : 0, output: stdout + stderr }),
      );
    }),
};

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, command, ...rest } = JSON.parse(line);
  try {
    say({ id, ...(await commands[command](rest)) });
  } catch (error) {
    say({ id, failed: String(error) });
  }
});
process.stdin.on("end", () => process.exit());
say({ ready: true });
