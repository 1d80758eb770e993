// npm start, npm test, npm run build and npm run bench: each does its own set-up, so that a fresh clone needs no more.
// Plain JavaScript, because it runs before anything is installed; on Deno too (deno run -A build/run.mjs test).
import { spawn } from "node:child_process";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const isDeno = "Deno" in globalThis;

/** Runs a command with our terminal. Resolves with its exit code; forwards what it prints to `see` as well. */
function run(command, args, { see, env } = {}) {
  return new Promise((resolve, reject) => {
    const stdio = see ? ["inherit", "pipe", "pipe"] : "inherit";
    const child = spawn(command, args, { cwd: root, stdio, env: { ...process.env, ...env } });
    child.on("error", reject);
    for (const name of ["stdout", "stderr"]) {
      child[name]?.on("data", (chunk) => {
        process[name].write(chunk);
        see(String(chunk));
      });
    }
    // Ctrl-C reaches the child from the terminal; we stay to pass on how it ended.
    const wait = () => {};
    process.on("SIGINT", wait);
    const forward = () => child.kill("SIGTERM");
    process.on("SIGTERM", forward);
    child.on("close", (code, signal) => {
      process.off("SIGINT", wait);
      process.off("SIGTERM", forward);
      resolve(signal ? 1 : code);
    });
  });
}

/** Arguments that make this runtime run a script; TypeScript needs a loader on Node before 22.18. */
function script(file, typescript) {
  if (isDeno) return ["run", "-A", file];
  const [major, minor] = process.versions.node.split(".").map(Number);
  const strips = major > 22 || (major === 22 && minor >= 18);
  return typescript && !strips ? ["--import", "tsx", file] : [file];
}

async function install() {
  const installed = join(root, "node_modules/.package-lock.json");
  const lock = join(root, "package-lock.json");
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  console.log("Installing dependencies (once) ...");
  const code = await run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
  if (code !== 0) throw new Error("npm ci failed: see above");
}

async function build(tests) {
  const { buildCore, newest } = await import("./core.mjs");
  const { buildHost } = await import("./host.mjs");
  const { buildWeb } = await import("./web.mjs");
  await buildCore({ tests });
  const product = join(root, "dist/cli.js");
  const sources = newest("host", "assembly/abi.ts", "assembly/protocol.ts", "build/host.mjs", "package-lock.json");
  if (!existsSync(product) || statSync(product).mtimeMs < sources) await buildHost();
  await buildWeb();
}

/** Test folders, one process each: a crash in one cannot hide the others. */
const groups = ["crypto", "noise", "memory", "protocol", "offload", "host", "netstack", "embed", "lab", "system"];

function testFiles(folder) {
  return readdirSync(join(root, "test", folder), { recursive: true })
    .map(String)
    .filter((name) => name.endsWith(".test.ts"));
}

/** uvu passes over a suite that is never run in silence; so count them in the text. */
function forgottenSuites(folder) {
  return testFiles(folder).filter((name) => {
    const text = readFileSync(join(root, "test", folder, name), "utf8");
    return (text.match(/\bsuite\(/g) ?? []).length !== (text.match(/\.run\(\)/g) ?? []).length;
  });
}

async function test(filters) {
  const strict = process.env.WASMGUARD_NO_SKIP === "1";
  let passed = 0;
  let failed = 0;
  let skipped = 0;
  for (const group of groups) {
    if (!existsSync(join(root, "test", group)) || testFiles(group).length === 0) continue;
    if (filters.length && !filters.some((filter) => filter === group || filter.startsWith(`${group}/`))) continue;
    const names = filters.filter((filter) => filter.startsWith(`${group}/`)).map((filter) => filter.slice(group.length + 1));
    const name = filters.includes(group) ? "" : `(${names.join("|")})`;
    console.log(`\n== ${group} ==`);
    for (const file of forgottenSuites(group)) {
      console.log(`test/${group}/${file}: a suite is defined and never run`);
      failed++;
    }
    let output = "";
    const args = [...script("node_modules/uvu/bin.js", true), "--no-color", `test/${group}`, `${name}.*\\.test\\.ts$`];
    const code = await run(process.execPath, args, { see: (text) => (output += text) });
    const figure = (label) => Number(new RegExp(`^\\s*${label}:\\s+(\\d+)`, "m").exec(output)?.[1] ?? 0);
    const total = figure("Total");
    passed += figure("Passed");
    const bad = total - figure("Passed");
    failed += bad;
    const unable = (output.match(/^\s*cannot run: /gm) ?? []).length + figure("Skipped");
    if ((total === 0 && unable === 0) || (code !== 0 && bad === 0)) {
      console.log(`test/${group}: ended with code ${code} after ${total} tests`);
      failed++;
    }
    skipped += unable;
    if (strict && unable > 0) {
      console.log(`test/${group}: ${unable} could not run, and WASMGUARD_NO_SKIP=1 forbids that`);
      failed += unable;
    }
  }
  if (skipped > 0) console.log(`\n${skipped} could not run on this machine: see "cannot run" above`);
  console.log(`\n${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

async function main([command, ...args]) {
  await install();
  switch (command) {
    case "build":
      await build(false);
      return 0;
    case "start":
      await build(false);
      return run(process.execPath, args.length ? [...script("dist/cli.js"), ...args] : script("dist/demo.js"));
    case "test":
      await build(true);
      return test(args);
    case "bench": {
      await build(true);
      const files = readdirSync(join(root, "bench")).filter((name) => name.endsWith(".ts"));
      for (const file of files) {
        const code = await run(process.execPath, [...script(`bench/${file}`, true), ...(args.length ? args : ["--short"])]);
        if (code !== 0) return code;
      }
      return 0;
    }
    default:
      throw new Error(`build/run.mjs: "${command}" is none of build, start, test, bench`);
  }
}

process.exitCode = await main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  return 1;
});
