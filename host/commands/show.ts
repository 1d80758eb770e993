// wasmguard show: interfaces and their peers, as `wg show` writes them, or as JSON.

import process from "node:process";
import { compileCore, createCore } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import { fillRandom } from "../platform/random.ts";
import { formatShow, toJson } from "../show.ts";
import { listInterfaces, readState } from "../uapi-client.ts";
import { socketPath } from "../uapi-server.ts";
import { atMost, type Command, parse } from "./command.ts";

export const command: Command = {
  help: `Usage: wasmguard show [INTERFACE] [--json]

Shows interfaces and their peers, those of other WireGuards too that answer on /var/run/wireguard.
`,
  run(args) {
    const { values, positionals } = parse(args, { json: { type: "boolean" } });
    atMost(positionals, 1);
    return show(positionals[0], values.json === true);
  },
};

async function show(name: string | undefined, json: boolean): Promise<void> {
  const names = name === undefined ? listInterfaces() : [name];
  if (name !== undefined) socketPath(name);
  const core = createCore(await compileCore(), fillRandom, { maxPeers: 1, maxNodes: 2 });
  const shown: object[] = [];
  const texts: string[] = [];
  for (const each of names) {
    try {
      const state = await readState(each);
      const publicKey = state.privateKey && core.publicKey(state.privateKey);
      if (json) shown.push(toJson(each, state, publicKey));
      else texts.push(formatShow(each, state, publicKey, process.stdout.isTTY, Math.floor(Date.now() / 1000)));
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // Listed, and gone or dead by now: not this command's business, unless it was asked for by name.
      if (name === undefined && (code === "ECONNREFUSED" || code === "ENOENT")) continue;
      if (code === "ENOENT" || code === "ECONNREFUSED") throw new WasmguardError(code, `No interface ${each} is running`);
      if (code === "EACCES") throw new WasmguardError(code, `Cannot ask ${each}: it needs root`);
      throw new WasmguardError(code ?? "EIO", `Cannot ask ${each}: ${message}`);
    }
  }
  if (json) process.stdout.write(`${JSON.stringify(name === undefined ? shown : shown[0], null, 2)}\n`);
  else process.stdout.write(texts.join("\n"));
}
