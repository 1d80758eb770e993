// The choice of a build: where V8 can be told to pair operations, what is measured, and that nothing can make it fail.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { compileCore, fastestBuild, pickBuild } from "../../host/core.ts";
import { canPair, chooseBuild, type Engine, isFaster, setPairing, thisEngine } from "../../host/core-choice.ts";

const NODE_24: Engine = { name: "Node", version: "13.6.233.10-node.28", arch: "x64" };

const test = suite("host/core-choice");

test("operations are paired on Node with V8 13 or later on x64, nowhere else", () => {
  assert.ok(canPair(NODE_24));
  assert.ok(canPair({ ...NODE_24, version: "14.1.146.11" }));
  const others: Partial<Engine>[] = [
    { version: "11.3.244.8-node.30" }, { version: "12.4.254.21-node.33" }, { version: "" },
    { arch: "arm64" }, { arch: "ia32" }, { arch: "" },
    { name: "Deno" }, { name: "Bun" }, { name: "browser" },
  ];
  for (const other of others) assert.equal(canPair({ ...NODE_24, ...other }), false, JSON.stringify(other));
});

test("this engine is named as what it is", () => {
  const { name, version, arch } = thisEngine();
  assert.equal(name, "Deno" in globalThis ? "Deno" : "Node");
  assert.equal(version, process.versions.v8);
  assert.equal(arch, process.arch);
});

// A clock that the packets move: the one of no surprises.
function race(wideMs: (round: number) => number, relaxedMs: (round: number) => number) {
  let now = 0;
  const rounds = { wide: 0, relaxed: 0 };
  const wide = () => void (now += wideMs(rounds.wide++));
  const relaxed = () => void (now += relaxedMs(rounds.relaxed++));
  return { faster: isFaster(wide, relaxed, () => now), rounds, ms: now };
}

test("the wide build has to be a tenth better, in its best round", () => {
  assert.equal(race(() => 0.1, () => 0.15).faster, true);
  assert.equal(race(() => 0.1, () => 0.105).faster, false);
  assert.equal(race(() => 0.15, () => 0.1).faster, false);
  const disturbed = race((round) => (round === 3 ? 0.1 : 2), (round) => (round === 1 ? 0.15 : 1));
  assert.equal(disturbed.faster, true, "one quiet round of each is enough");
});

test("a slow machine is measured for one round, not longer", () => {
  const { rounds, ms } = race(() => 40, () => 60);
  assert.deepEqual(rounds, { wide: 1, relaxed: 1 });
  assert.equal(ms, 100);
});

test("nothing is measured where there is nothing to choose", async () => {
  const never = () => Promise.reject(new Error("called"));
  assert.equal(await chooseBuild("plain", never, NODE_24), "plain");
  assert.equal(await chooseBuild("relaxed", never, { ...NODE_24, name: "Deno" }), "relaxed");
});

test("what cannot be loaded or run is not chosen", async () => {
  assert.equal(await chooseBuild("relaxed", () => Promise.reject(new Error("no such file")), NODE_24), "relaxed");
  const broken = () => Promise.resolve(() => {
    throw new WebAssembly.RuntimeError("unreachable");
  });
  assert.equal(await chooseBuild("relaxed", broken, NODE_24), "relaxed");
});

test("the fastest build is one that this engine runs", async () => {
  const build = await fastestBuild();
  assert.ok(build === pickBuild() || (build === "wide" && canPair()), build);
  const exports = (module: WebAssembly.Module) => WebAssembly.Module.exports(module).map(({ name }) => name);
  assert.deepEqual(exports(await compileCore(build)), exports(await compileCore("plain")));
  await setPairing(false);
});

test("a build that this engine cannot run is refused by name", async () => {
  for (const build of ["relaxed", "wide"] as const) {
    if (pickBuild() !== "plain") assert.ok((await compileCore(build)) instanceof WebAssembly.Module);
    else await assert.rejects(compileCore(build), { code: "ENOTSUP", message: new RegExp(build) });
  }
  await setPairing(false);
});

test.run();
