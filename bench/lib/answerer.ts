// A process of bench/handshake.ts: how many initiations does our core answer in a second of CPU time, with nothing
// around it? Prints JSON. Its own process, because each runtime has to run it.
//
//   answerer.ts IDENTITIES ROUNDS

import process from "node:process";
import {
  IN_ENDPOINT, IN_FLAGS, IN_LENGTH, IN_OFFSET, IN_SEGMENT, IN_SIZE, SLOT_HEADROOM, SLOT_SIZE, THREAD_IN,
} from "../../assembly/abi.ts";
import { INITIATION_LEN, RESPONSE_LEN } from "../../assembly/protocol.ts";
import { compileCore, createCore, pickBuild } from "../../host/core.ts";
import { fillRandom } from "../../host/platform/random.ts";
import { VirtualCore, anyEndpoint, makeInitiations } from "./initiations.ts";

/** initiations handed over at once: far from what makes the core ask for cookies */
const BATCH = 32;
/** ms between two rounds on the responder's clock: more than the 20 ms it wants between two of one peer */
const ROUND_MS = 1000;

const [identities, rounds] = process.argv.slice(2).map(Number);
const core = createCore(await compileCore(), fillRandom, { maxPeers: identities, maxNodes: 2 });
const responder = new VirtualCore(core);
const key = new Uint8Array(32);
fillRandom(key);
const { publicKeys, messages } = await makeInitiations(responder.setPrivateKey(key), identities, rounds);
for (const publicKey of publicKeys) responder.addPeer(publicKey);
core.exports.deviceUp();

const start = Date.now();
const endpoint = anyEndpoint();
let answered = 0;
let cpuMicros = 0;
for (let first = 0; first < messages.length; first += BATCH) {
  const batch = messages.slice(first, first + BATCH);
  batch.forEach((message, i) => {
    const record = core.base + THREAD_IN + i * IN_SIZE;
    const offset = core.slots + i * SLOT_SIZE + SLOT_HEADROOM;
    core.u8.set(message, offset);
    core.view.setUint32(record + IN_OFFSET, offset, true);
    core.view.setUint32(record + IN_LENGTH, INITIATION_LEN, true);
    core.view.setUint32(record + IN_SEGMENT, 0, true);
    core.view.setUint32(record + IN_FLAGS, 0, true);
    core.u8.set(endpoint, record + IN_ENDPOINT);
  });
  responder.setTime(start + Math.floor(first / identities) * ROUND_MS);
  const begin = process.cpuUsage();
  for (let at = 0; at < batch.length; ) at = core.exports.deviceReceive(at, batch.length);
  let more = true;
  while (more) {
    const outs = responder.service();
    more = core.more;
    for (let i = 0; i < outs; i++) if (responder.out(i).length === RESPONSE_LEN) answered++;
  }
  // The first round is for the compilers.
  if (first < identities && rounds > 1) continue;
  const { user, system } = process.cpuUsage(begin);
  cpuMicros += user + system;
}
if (answered !== messages.length) throw new Error(`answered ${answered} of ${messages.length} initiations`);
const timed = rounds === 1 ? messages.length : messages.length - Math.ceil(identities / BATCH) * BATCH;
console.log(JSON.stringify({ build: pickBuild(), perSecond: (1e6 * timed) / cpuMicros }));
