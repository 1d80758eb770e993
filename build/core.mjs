// Compiles assembly/ to dist/core-<build>.wasm, parts of its crypto to dist/speed-<build>.wasm and dist/primitives.wasm, and
// test/assembly/*.ts to dist/test/<name>-<build>.wasm, for the builds of asconfig.json: plain (Node 20), relaxed (V8 with
// relaxed SIMD), wide (the same, for V8 that pairs operations into AVX2), and page (plain over a memory that is not
// shared, for a page without cross-origin isolation). One process a module, as many as there are cores.
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const builds = ["plain", "relaxed", "wide"];
const asc = join(root, "node_modules/assemblyscript/bin/asc.js");

/** Outside of crypto/, the wide build is the relaxed one. */
const testBuilds = (name) => (name === "crypto" ? builds : builds.filter((build) => build !== "wide"));

/** Newest modification under the given files and folders, ms. */
export function newest(...paths) {
  let time = 0;
  for (const path of paths) {
    const full = join(root, path);
    if (!existsSync(full)) continue;
    const stat = statSync(full);
    if (stat.isDirectory()) for (const name of readdirSync(full)) time = Math.max(time, newest(join(path, name)));
    else time = Math.max(time, stat.mtimeMs);
  }
  return time;
}

async function compile({ entry, build, out }) {
  const target = join(root, out);
  const sources = newest("assembly", "asconfig.json", entry);
  if (existsSync(target) && statSync(target).mtimeMs > sources) return;
  mkdirSync(dirname(target), { recursive: true });
  const options = [asc, entry, "--config", "asconfig.json", "--target", build, "--outFile", out];
  await promisify(execFile)(process.execPath, options, { cwd: root }).catch((error) => {
    throw new Error(`asc ${entry} (${build}):\n${error.stdout}${error.stderr}`);
  });
}

/** Compiles what is out of date. @param {{ tests?: boolean, only?: string[] }} options */
export async function buildCore({ tests = false, only } = {}) {
  const modules = [];
  if (!only) {
    for (const build of builds) modules.push({ entry: "assembly/index.ts", build, out: `dist/core-${build}.wasm` });
    for (const build of [...builds, "page"])
      modules.push({ entry: "assembly/crypto/speed.ts", build, out: `dist/speed-${build}.wasm` });
    modules.push({ entry: "assembly/crypto/primitives.ts", build: "page", out: "dist/primitives.wasm" });
    modules.push({ entry: "assembly/index.ts", build: "page", out: "dist/core-page.wasm" });
  }
  if (tests || only)
    for (const file of readdirSync(join(root, "test/assembly"))) {
      const name = basename(file, ".ts");
      if (only && !only.includes(name)) continue;
      for (const build of testBuilds(name)) modules.push({ entry: `test/assembly/${file}`, build, out: `dist/test/${name}-${build}.wasm` });
    }
  const queue = modules.slice();
  const worker = async () => {
    for (let module = queue.shift(); module; module = queue.shift()) await compile(module);
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), queue.length) }, worker));
}

// node build/core.mjs [NAME...]: only the named test modules
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const only = process.argv.slice(2);
  await buildCore(only.length ? { only } : { tests: true }).catch((error) => {
    console.error(error.message);
    process.exit(1);
  });
}
