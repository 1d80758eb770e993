// wasmguard genkey, pubkey and genpsk: keys, as wg makes them.

import process from "node:process";
import { compileCore, createCore } from "../core.ts";
import { decodeBase64Key, encodeBase64Key, generatePresharedKey, generatePrivateKey } from "../keys.ts";
import { fillRandom } from "../platform/random.ts";
import { atMost, type Command, parse } from "./command.ts";

export const genkey = keyCommand("genkey", "Writes a new private key.", generatePrivateKey);
export const genpsk = keyCommand("genpsk", "Writes a new preshared key.", generatePresharedKey);
export const pubkey = keyCommand("pubkey < PRIVATE", "Writes the public key of a private key.", readPublicKey);

function keyCommand(usage: string, what: string, make: () => Uint8Array | Promise<Uint8Array>): Command {
  return {
    help: `Usage: wasmguard ${usage}\n\n${what}\n`,
    async run(args) {
      atMost(parse(args, {}).positionals, 0);
      process.stdout.write(`${encodeBase64Key(await make())}\n`);
    },
  };
}

async function readPublicKey(): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  const key = decodeBase64Key(Buffer.concat(chunks).toString("latin1").trim());
  const core = createCore(await compileCore(), fillRandom, { maxPeers: 1, maxNodes: 2 });
  return core.publicKey(key);
}
