// How many initiations are answered a second, and what does an answer cost? Two measurements.
//
// In the process: our core alone is handed authentic initiations of many identities, on one core of the machine, on
// each runtime. Through UDP: a daemon of each implementation with 1,000 peers answers all of them from one address,
// with few enough under way that nobody asks for cookies. wireguard-go spreads handshakes over cores and ours does
// them on one thread; so beside the rate there is the rate for each second of CPU time, which is "on one core" for
// both.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { Lab } from "../test/helpers/netlab.ts";
import { PORT, Side, newKeys } from "../test/helpers/system.ts";
import { type Candidate, scriptCommand } from "./lib/candidates.ts";
import { makeInitiations } from "./lib/initiations.ts";
import { peerSections } from "./lib/peerconfig.ts";
import { usageOf } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";

const IDENTITIES = 1000;
const UNDER_WAY = 48;
const RESPONDER = { address: "10.0.9.2", from: "10.0.9.3" };

await bench("initiations answered", async (run) => {
  const { short, rounds, seconds } = run.options;
  const lab = new Lab();
  try {
    const inProcess = await run.rounds(run.candidates.ours, async ({ executable }): Promise<Sample> => {
      const script = new URL("./lib/answerer.ts", import.meta.url);
      const child = lab.background(scriptCommand(executable!, script, "256", short ? "3" : "8"));
      const code = await child.ended(60_000);
      if (code !== 0) throw new Error(`answerer.ts ended with ${code}:\n${child.output()}`);
      return { "answers/CPU s": JSON.parse(child.output()).perSecond as number };
    });
    run.compare("our core alone", run.candidates.ours, inProcess);
  } finally {
    await lab.close();
  }

  const keys = newKeys();
  // As many as the fastest could answer in the time.
  const perIdentity = Math.ceil((seconds * 8000) / IDENTITIES);
  const publicKey = Buffer.from(keys.publicKey, "base64");
  const { publicKeys, messages } = await makeInitiations(publicKey, IDENTITIES, perIdentity);
  const sections = peerSections(publicKeys);

  const answer = async (candidate: Candidate): Promise<Sample> => {
    const lab = new Lab();
    try {
      const responder = lab.namespace("b");
      const initiator = lab.namespace("c");
      lab.connect([responder, "veth-b", `${RESPONDER.address}/24`], [initiator, "veth-c", `${RESPONDER.from}/24`]);
      const side = await Side.start(responder, "b", candidate);
      await side.setKeys(keys);
      await side.set(`listen-port ${PORT.b}`);
      await responder.run(`wg addconf ${side.name} ${lab.file(sections)}`);
      responder.ip(`link set ${side.name} up`);
      const file = join(lab.folder, "initiations");
      writeFileSync(file, Buffer.concat(messages));
      const script = new URL("./lib/initiator.ts", import.meta.url);
      const args = [file, RESPONDER.address, `${PORT.b}`, `${UNDER_WAY}`, `${seconds}`];
      const { usage, result } = await usageOf([side.daemon.pid], async () => {
        const child = initiator.start(scriptCommand(process.execPath, script, ...args));
        const code = await child.ended((seconds + 20) * 1000);
        if (code !== 0) throw new Error(`initiator.ts ended with ${code}:\n${child.output()}`);
        return JSON.parse(child.output()) as { sent: number; answered: number; other: number; seconds: number };
      });
      if (result.answered === 0) throw new Error(`${candidate.name} answered nothing:\n${side.daemon.output()}`);
      return {
        "answers/s": result.answered / result.seconds,
        "answers/CPU s": result.answered / usage.cpuSeconds,
        "unanswered %": 100 * (1 - result.answered / result.sent),
        "cookies": result.other,
      };
    } finally {
      await lab.close();
    }
  };
  const throughUdp = await run.rounds(run.candidates.all, answer, rounds);
  run.compare(`a daemon with ${IDENTITIES} peers, through UDP`, run.candidates.all, throughUdp);
});
