// An idle tunnel, with an idle connection through it, is woken by the protocol's own timers and by nothing else.

import assert from "node:assert/strict";
import { once } from "node:events";
import { suite } from "uvu";
import { encodeBase64Key, generatePrivateKey } from "../../host/keys.ts";
import { Tunnel } from "../../host/tunnel/tunnel.ts";

/** until the last exchange is acknowledged and its timers have run out */
const SETTLE_MS = 2500;
const IDLE_MS = 5000;

const idle = suite("an idle tunnel");
const real = { setTimeout: globalThis.setTimeout, setInterval: globalThis.setInterval };
let fired: string[] | null = null;

/** Timers that fire while somebody watches, by who set them. */
function watched<T extends (callback: (...args: unknown[]) => void, ms?: number, ...args: unknown[]) => unknown>(set: T): T {
  return ((callback: (...args: unknown[]) => void, ms?: number, ...args: unknown[]) => {
    const setter = new Error().stack!.split("\n").slice(2, 5).join("\n");
    const call = (...given: unknown[]): void => {
      fired?.push(setter);
      callback(...given);
    };
    return set(call, ms, ...args);
  }) as T;
}

const sleep = (ms: number) => new Promise((resolve) => real.setTimeout(resolve, ms));

async function open(address: string): Promise<Tunnel> {
  const settings = { privateKey: encodeBase64Key(generatePrivateKey()), addresses: [`${address}/32`], peers: [] };
  return Tunnel.open(settings, { bindAddress: "127.0.0.1" });
}

idle("wakes for the protocol's timers alone", async () => {
  globalThis.setTimeout = watched(real.setTimeout as never);
  globalThis.setInterval = watched(real.setInterval as never);
  const [a, b] = [await open("10.0.0.1"), await open("10.0.0.2")];
  try {
    await a.setPeer({ publicKey: b.publicKey, allowedIps: ["10.0.0.2/32"], endpoint: `127.0.0.1:${b.listenPort}` });
    await b.setPeer({ publicKey: a.publicKey, allowedIps: ["10.0.0.1/32"] });
    const server = b.listen({ port: 7 }, (socket) => socket.on("error", () => {}).pipe(socket));
    const socket = a.connect({ host: "10.0.0.2", port: 7 });
    socket.on("error", () => {});
    socket.write("hello");
    await once(socket, "data");
    await sleep(SETTLE_MS);
    fired = [];
    await sleep(IDLE_MS);
    const others = fired.filter((setter) => !/driver\.ts/.test(setter));
    assert.deepEqual(others, [], others.join("\n\n"));
    // Two devices, each with a few timers armed anew at most.
    assert.ok(fired.length <= 6, `${fired.length} timers fired`);
    await server.close();
  } finally {
    fired = null;
    Object.assign(globalThis, real);
    await a.close();
    await b.close();
  }
});

idle.run();
