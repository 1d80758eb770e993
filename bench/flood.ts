// Does the tunnel stay usable while strangers send handshakes? Pings through the tunnel while a third namespace sends
// to one end's port: initiations with a valid mac1 (whoever knows the public key can make them; each costs the
// receiver a Diffie-Hellman until it asks for cookies), 5,000 a second; garbage of their length and type; and as many
// valid ones. The rate that the sender reached is shown: on two cores it takes one.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { type Namespace, sleep, until } from "../test/helpers/netlab.ts";
import { INITIATION_LEN, MESSAGE_HANDSHAKE_INITIATION } from "../assembly/protocol.ts";
import { fillRandom } from "../host/platform/random.ts";
import { scriptCommand } from "./lib/candidates.ts";
import { makeInitiations } from "./lib/initiations.ts";
import { type Link, PORT, STRANGER, addStranger, withLink } from "./lib/lab.ts";
import { bench, type Sample } from "./lib/run.ts";
import { pings } from "./lib/traffic.ts";

interface Storm {
  title: string;
  messages: "valid" | "garbage";
  perSecond: number;
}

const STORMS: Storm[] = [
  { title: "5,000/s valid mac1", messages: "valid", perSecond: 5000 },
  { title: "180,000/s garbage", messages: "garbage", perSecond: 180_000 },
  { title: "180,000/s valid mac1", messages: "valid", perSecond: 180_000 },
];
const MESSAGES = 400;
const PING_INTERVAL_MS = 10;
/** After a storm a daemon is "under load" for a second more. */
const CALM_MS = 1300;

function garbage(): Buffer {
  const bytes = Buffer.alloc(MESSAGES * INITIATION_LEN);
  fillRandom(bytes);
  for (let at = 0; at < bytes.length; at += INITIATION_LEN) bytes.writeUInt32LE(MESSAGE_HANDSHAKE_INITIATION, at);
  return bytes;
}

/** Pings while a storm blows. */
async function under(storm: Storm, link: Link, stranger: Namespace, file: string, count: number): Promise<Sample> {
  const seconds = (count * PING_INTERVAL_MS) / 1000 + 1;
  const script = new URL("./lib/storm.ts", import.meta.url);
  const args = [file, STRANGER.target, `${PORT.b}`, `${storm.perSecond}`, `${seconds}`];
  const child = stranger.start(scriptCommand(process.execPath, script, ...args));
  await until("the storm to begin", () => child.output().includes("storming") || child.code !== null, 10_000);
  await sleep(300);
  const { median: p50, p99, lost } = await pings(link, count, PING_INTERVAL_MS);
  const code = await child.ended((seconds + 10) * 1000);
  if (code !== 0) throw new Error(`storm.ts ended with ${code}:\n${child.output()}`);
  const { perSecond } = JSON.parse(child.output().trim().split("\n").at(-1)!) as { perSecond: number };
  await sleep(CALM_MS);
  return { "median ms": p50 / 1000, "p99 ms": p99 / 1000, "lost %": lost, "sent 1,000/s": perSecond / 1000 };
}

await bench("ping through the tunnel while strangers storm one end", async (run) => {
  const all = run.few();
  const count = run.options.short ? 80 : 400;
  const calm: Sample[][] = all.map(() => []);
  const stormy: Sample[][][] = STORMS.map(() => all.map(() => []));
  await run.rounds(all, (candidate) =>
    withLink(candidate, async (link): Promise<Sample> => {
      const stranger = addStranger(link);
      const { messages } = await makeInitiations(Buffer.from(link.b.keys.publicKey, "base64"), 1, MESSAGES);
      const files = { valid: join(link.lab.folder, "valid"), garbage: join(link.lab.folder, "garbage") };
      writeFileSync(files.valid, Buffer.concat(messages));
      writeFileSync(files.garbage, garbage());
      const subject = all.indexOf(candidate);
      const { median, p99, lost } = await pings(link, count, PING_INTERVAL_MS);
      calm[subject].push({ "median ms": median / 1000, "p99 ms": p99 / 1000, "lost %": lost });
      for (const [i, storm] of STORMS.entries()) {
        stormy[i][subject].push(await under(storm, link, stranger, files[storm.messages], count));
      }
      return {};
    }),
  );
  run.compare("no storm", all, calm);
  STORMS.forEach(({ title }, i) => run.compare(title, all, stormy[i]));
});
