// Recorded runs: the same events again on every build, the shared and the page's own; what differs is shown; what is no
// trace is refused.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import type { CoreBuild } from "../../host/core.ts";
import { prepareBuild } from "../../host/simulator/node.ts";
import { formatRecording, parseRecording } from "../../host/simulator/recording.ts";
import { ALL_FAULTS, soak, type SoakOptions } from "../../host/simulator/soak.ts";
import { builds } from "../sim/builds.ts";

const CLI = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const options: SoakOptions = { seed: 11, build: "plain", nodes: 3, seconds: 200, rate: 1, changes: true, faults: ALL_FAULTS, keepTrace: true };

await prepareBuild("page");
const { sim } = soak(options);
const text = formatRecording(options, sim.trace.lines!, sim.trace.hex());

interface Ended {
  code: number;
  out: string;
}

function wasmguard(args: string[], input = ""): Promise<Ended> {
  const isDeno = "Deno" in globalThis;
  const command = isDeno ? ["run", "-A", CLI] : [CLI];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [...command, ...args], (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, out: stdout + stderr });
    });
    child.stdin!.end(input);
  });
}

const replay = suite("replay");
const folder = mkdtempSync(join(tmpdir(), "wasmguard-replay-"));
replay.after(() => rmSync(folder, { recursive: true }));

for (const build of [...builds, "page"] as CoreBuild[]) {
  replay(`${build} gives the same events`, () => {
    const { options: again, lines } = parseRecording(text);
    const run = soak({ ...again, build, keepTrace: true });
    assert.equal(run.sim.trace.hex(), sim.trace.hex());
    assert.deepEqual(run.sim.trace.lines, lines);
  });
}

replay("the command says the same, steps, and shows the first event that differs", async () => {
  const path = join(folder, "a.trace");
  writeFileSync(path, text);
  const same = await wasmguard(["replay", path]);
  assert.deepEqual(same, { code: 0, out: `the same: ${sim.trace.count} events, ${sim.trace.hex()}\n` });
  const stepped = await wasmguard(["replay", path, "--step"], "\n\nq\n");
  assert.equal(stepped.out.split("\n").slice(0, 3).join("\n"), sim.trace.lines!.slice(0, 3).map((line) => `  ${line}`).join("\n"));
  const lines = text.split("\n");
  lines[20] += "!";
  writeFileSync(path, lines.join("\n"));
  const differs = await wasmguard(["replay", path]);
  assert.equal(differs.code, 1);
  assert.match(differs.out, /^differs at event 20:\n(  .*\n){3}- .*!\n\+ .*\n$/);
});

replay("what is no trace is refused, with the reason", async () => {
  for (const [bad, message] of [
    ["", /does not begin with/], ["# wasmguard trace {\n", /no options that can be read/], ["# wasmguard trace null\n", /no options/],
    ['# wasmguard trace {"seed":1,"nodes":99,"seconds":1,"rate":1}\n', /option nodes is not in 2..26/],
    ['# wasmguard trace {"seed":1,"nodes":2,"seconds":1e99,"rate":1}\n', /option seconds/],
    ['# wasmguard trace {"seed":1,"nodes":2,"seconds":1,"rate":1,"faults":{"loss":7}}\n', /option loss/],
  ] as const) {
    assert.throws(() => parseRecording(bad), { code: "ERR_TRACE", message });
  }
  const missing = await wasmguard(["replay", join(folder, "none")]);
  assert.equal(missing.code, 1);
  assert.match(missing.out, /Cannot read .*none/);
  assert.equal((await wasmguard(["replay"])).code, 2);
});

replay.run();
