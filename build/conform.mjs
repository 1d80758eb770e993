// npm run conform -- 'COMMAND {iface}' [OPTIONS]   builds, and checks a WireGuard in a namespace: wasmguard conform
// npm run conform -- --ours [OPTIONS]              the same for our own command
// npm run conform -- --mutants [NAME...]           breaks our own in each way of mutants.mjs, and shows what fails
// npm run conform -- --matrix NAME=FILE.json ...   what --json wrote, side by side as a Markdown table
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

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

const WORD = { pass: "ok", fail: "**fails**", skip: "skipped" };

/** A row for each check, a column for each report; what was seen under its outcome. */
function matrix(columns) {
  const reports = columns.map((column) => {
    const [, name, file] = /^([^=]+)=(.+)$/.exec(column) ?? [];
    if (!file) throw new Error(`--matrix: ${column} is not NAME=FILE.json`);
    return { name, report: JSON.parse(readFileSync(file, "utf8")) };
  });
  const cell = ({ outcome, seen } = { outcome: "skip", seen: "" }) =>
    `${WORD[outcome]}${seen ? `: ${seen.replaceAll("|", "\\|").replace(/\s+/g, " ")}` : ""}`;
  const lines = [
    `| check | the peer ... | source | ${reports.map(({ name }) => name).join(" | ")} |`,
    `|---|---|---|${"---|".repeat(reports.length)}`,
  ];
  for (const { id, title, source } of reports[0].report.checks) {
    const cells = reports.map(({ report }) => cell(report.checks.find((check) => check.id === id)));
    lines.push(`| \`${id}\` | ${title} | ${source} | ${cells.join(" | ")} |`);
  }
  lines.push(`| | | | ${reports.map(({ report }) => `${report.passed} ok, ${report.failed} fail`).join(" | ")} |`);
  return lines.join("\n");
}

async function main() {
  if (first === undefined) {
    console.error(
      "Usage: npm run conform -- 'COMMAND {iface}' [OPTIONS], --ours, --mutants [WORD...], --matrix NAME=FILE.json ...",
    );
    return 2;
  }
  if (first === "--matrix") {
    console.log(matrix(rest));
    return 0;
  }
  const built = await run([join(root, "build/run.mjs"), "build"]);
  if (built !== 0) return built;
  if (first === "--mutants") {
    // Only now: what it imports has just been installed.
    const { runMutants } = await import("./mutants.mjs");
    return (await runMutants(rest)) ? 0 : 1;
  }
  const cli = join(root, "dist/cli.js");
  const ours = `${process.execPath} ${isDeno ? "run -A " : ""}${cli} -f {iface}`;
  return run([cli, "conform", "--command", first === "--ours" ? ours : first, ...rest]);
}

process.exitCode = await main().catch((error) => {
  console.error(error.message);
  return 1;
});
