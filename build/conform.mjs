// npm run conform -- 'COMMAND {iface}' [OPTIONS]   builds, and checks a WireGuard in a namespace: wasmguard conform
// npm run conform -- --ours [OPTIONS]              the same for our own command
// npm run conform -- --mutants [NAME...]           breaks our own in each way of mutants.mjs, and shows what fails
import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { runMutants } from "./mutants.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const [first, ...rest] = process.argv.slice(2);
const isDeno = "Deno" in globalThis;
const run = (args) =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...(isDeno ? ["run", "-A"] : []), ...args], { stdio: "inherit" });
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? 1));
    // Ctrl-C reaches it from the terminal; it removes what it made and ends, and so do we.
    process.on("SIGINT", () => {});
    process.on("SIGTERM", () => child.kill("SIGTERM"));
  });

async function main() {
  if (first === undefined) {
    console.error("Usage: npm run conform -- 'COMMAND {iface}' [OPTIONS], or --ours, or --mutants [NAME...]");
    return 2;
  }
  const built = await run([join(root, "build/run.mjs"), "build"]);
  if (built !== 0) return built;
  if (first === "--mutants") return (await runMutants(rest)) ? 0 : 1;
  const cli = join(root, "dist/cli.js");
  const ours = `${process.execPath} ${isDeno ? "run -A " : ""}${cli} -f {iface}`;
  return run([cli, "conform", "--command", first === "--ours" ? ours : first, ...rest]);
}

process.exitCode = await main().catch((error) => {
  console.error(error.message);
  return 1;
});
