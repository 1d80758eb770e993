// A process with a tunnel that ends in one way or another (native.test.ts): prints what kind of device it was given.
import { createRequire } from "node:module";
import process from "node:process";
import { generatePrivateKey } from "../../host/keys.ts";

const [mode] = process.argv.slice(2);

if (mode === "without koffi") {
  const Module = createRequire(import.meta.url)("node:module") as { _load(name: string, ...rest: unknown[]): unknown };
  const load = Module._load;
  Module._load = (name, ...rest) => {
    if (name === "koffi") throw new Error("Cannot find module 'koffi'");
    return load.call(Module, name, ...rest);
  };
}

const { openPortable } = await import("../../host/portable.ts");

const kinds: string[] = [];
const devices = [];
for (let i = 0; i < 2; i++) {
  const device = await openPortable({ onInput: () => {}, address: "127.0.0.1" });
  await device.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
  if (i === 0 || mode !== "half open") await device.up();
  kinds.push(device.kind);
  devices.push(device);
}
if (mode === "native only") {
  const error = await openPortable({ onInput: () => {}, transport: "native" }).catch((error: Error) => error);
  kinds.push((error as NodeJS.ErrnoException).code ?? "none");
}
process.stdout.write(`${kinds.join(" ")}\n`);
if (mode === "exit") process.exit(3);
if (mode === "throw") throw new Error("thrown with tunnels open");
await Promise.all(devices.map((device) => device.close()));
