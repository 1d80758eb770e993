// wasmguard conform: what a WireGuard must and must not answer, tried on a peer somewhere or on a command that is
// started for it.

import { lookup } from "node:dns/promises";
import { readFileSync } from "node:fs";
import { isIPv4, isIPv6 } from "node:net";
import process from "node:process";
import { type Check, Deviation } from "../conform/check.ts";
import { CHECKS, choose } from "../conform/checks/index.ts";
import { Laboratory, PLAN } from "../conform/laboratory.ts";
import { formatJson, formatRow, formatSummary, formatTap, type Style, summarize } from "../conform/report.ts";
import { type Result, type Stand, firstContact, runChecks } from "../conform/run.ts";
import { type LaboratoryPlan, laboratoryStand, remoteStand } from "../conform/stands.ts";
import { splitHostPort } from "../endpoint.ts";
import { WasmguardError } from "../errors.ts";
import { decodeBase64Key } from "../keys.ts";
import { atMost, type Command, number, parse, UsageError } from "./command.ts";

const options = {
  peer: { type: "string" },
  key: { type: "string" },
  "private-key": { type: "string" },
  psk: { type: "string" },
  source: { type: "string", multiple: true },
  target: { type: "string", multiple: true },
  listen: { type: "string" },
  command: { type: "string" },
  only: { type: "string" },
  quick: { type: "boolean" },
  slow: { type: "boolean" },
  json: { type: "boolean" },
  tap: { type: "boolean" },
  list: { type: "boolean" },
} as const;

type Values = ReturnType<typeof parse<typeof options>>["values"];

/** A check that waits as long is not quick. */
const QUICK_SECONDS = 5;

export const command: Command = {
  help: `Usage: wasmguard conform --peer HOST:PORT --key PEER_PUBLIC_KEY --private-key FILE [OPTIONS]
       wasmguard conform --command 'COMMAND {iface}' [OPTIONS]

Checks what a WireGuard answers and what it must not answer, each check with the paragraph it comes from.

The first form speaks to a peer that is set up to know the public key of FILE. Checks that need more than the wire are
skipped. The second form (Linux, root) starts COMMAND in a network namespace of its own, configures it by its UAPI
socket, runs all checks, and removes everything. COMMAND makes a TUN interface called {iface}, as wireguard-go does.

      --psk FILE          the preshared key that the peer has for us
      --source ADDRESS    an address of ours in the tunnel, one that the peer allows us; IPv4, IPv6 or both
      --target ADDRESS    an address in the tunnel that answers pings
      --listen PORT       our UDP port (default: any)
      --only PATTERNS     only checks with one of these in their names: "mac1", "cookie,roaming", "-timers"
      --quick             only those that take no longer than some seconds
      --slow              also those that take minutes, in real time
      --json, --tap       the result for a program
      --list              name the checks, and run none

Exit code: 0 when no check failed, 1 when one did or the peer could not be tried, 2 for wrong usage.
`,
  async run(args, { script }) {
    const { values, positionals } = parse(args, options);
    atMost(positionals, 0);
    if (values.json && values.tap) throw new UsageError("--json and --tap: choose one");
    if (values.quick && values.slow) throw new UsageError("--quick and --slow: choose one");
    const checks = chosen(values);
    if (checks.length === 0) throw new UsageError(`--only ${values.only} is in no check's name (see --list)`);
    if (values.list) {
      for (const { id, title, source } of checks) process.stdout.write(`${id.padEnd(32)}${title} [${source}]\n`);
      return;
    }
    const plan = process.env[PLAN];
    if (plan) return check(await laboratoryStand(JSON.parse(plan) as LaboratoryPlan), values.command ?? "", values);
    if (values.command !== undefined) return inLaboratory(values.command, args, script);
    const { stand, name } = await remote(values);
    return check(stand, name, values);
  },
};

function chosen({ only, quick }: Values): Check[] {
  return choose(CHECKS, only).filter(({ seconds = 0 }) => !quick || seconds < QUICK_SECONDS);
}

/** Runs the same command again inside the laboratory. */
async function inLaboratory(command: string, args: string[], script: string): Promise<void> {
  if (process.platform !== "linux" || process.getuid?.() !== 0)
    throw new WasmguardError("EPERM", "--command needs Linux and root");
  const laboratory = new Laboratory();
  const stop = (): void => {
    laboratory.closeNow();
    process.exit(1);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, stop);
  try {
    const plan = await laboratory.start(command);
    const again = "Deno" in globalThis ? ["run", "-A", script] : [...process.execArgv, script];
    process.exitCode = await laboratory.run([process.execPath, ...again, "conform", ...args], plan);
  } finally {
    await laboratory.close();
  }
}

async function remote(values: Values): Promise<{ stand: Stand; name: string }> {
  const { peer, key } = values;
  if (peer === undefined || key === undefined || values["private-key"] === undefined) {
    throw new UsageError("conform needs --peer, --key and --private-key, or --command");
  }
  const { host, port } = usage("--peer", () => splitHostPort(peer));
  const publicKey = usage("--key", () => decodeBase64Key(key));
  const privateKey = readKey("--private-key", values["private-key"]);
  const psk = values.psk === undefined ? undefined : readKey("--psk", values.psk);
  const listenPort = number("--listen", values.listen, 65535);
  const inner = innerAddresses(values.source ?? [], values.target ?? []);
  const found = await lookup(host).catch((error: NodeJS.ErrnoException) => {
    throw new WasmguardError(error.code ?? "ENOTFOUND", `Cannot find ${host}: ${error.code}`);
  });
  const family = found.family === 6 ? 6 : 4;
  const address = { host: found.address, port };
  return { stand: remoteStand({ address, family, publicKey, privateKey, psk, inner, listenPort }), name: peer };
}

function innerAddresses(sources: string[], targets: string[]): Parameters<typeof remoteStand>[0]["inner"] {
  const inner: ReturnType<typeof innerAddresses> = {};
  for (const address of [...sources, ...targets]) {
    if (!isIPv4(address) && !isIPv6(address)) throw new UsageError(`${address} is not an IP address`);
  }
  for (const [family, is] of [
    [4, isIPv4],
    [6, isIPv6],
  ] as const) {
    const ours = sources.find(is);
    const theirs = targets.find(is);
    if ((ours === undefined) !== (theirs === undefined)) {
      throw new UsageError(`--source and --target go together: there is only one for IPv${family}`);
    }
    if (ours !== undefined && theirs !== undefined) inner[family] = { ours, theirs };
  }
  return inner;
}

function readKey(option: string, file: string): Uint8Array {
  let text: string;
  try {
    text = readFileSync(file, "latin1");
  } catch (error) {
    throw new WasmguardError("EIO", `Cannot read ${option} ${file}: ${(error as NodeJS.ErrnoException).code}`);
  }
  return usage(`${option} ${file}`, () => decodeBase64Key(text.trim()));
}

function usage<T>(option: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new UsageError(`${option}: ${(error as Error).message}`);
  }
}

async function check(stand: Stand, peer: string, values: Values): Promise<void> {
  const checks = chosen(values);
  const start = performance.now();
  try {
    await firstContact(stand);
  } catch (error) {
    stand.close?.();
    if (error instanceof Deviation) throw new WasmguardError("ERR_PEER", `Cannot check ${peer}: ${error.message}`);
    throw error;
  }
  const { columns = 100, isTTY = false } = process.stdout;
  const style: Style = { colour: isTTY && !process.env.NO_COLOR, width: Math.min(columns, 120) };
  const table = new Table(checks.length, style, !values.json && !values.tap);
  const onResult = (result: Result): void => table.add(checks.indexOf(result.check), result);
  const results = await runChecks(checks, stand, { slow: values.slow, onResult });
  stand.close?.();
  const ms = performance.now() - start;
  if (values.json) process.stdout.write(formatJson(results, peer, ms));
  else if (values.tap) process.stdout.write(formatTap(results));
  else process.stdout.write(`\n${formatSummary(results, ms, style)}`);
  if (summarize(results).failed > 0) process.exitCode = 1;
}

/** Rows in the order of the checks, each as soon as those before it are there; on a terminal, how many are done. */
class Table {
  readonly #rows: (Result | undefined)[];
  readonly #style: Style;
  readonly #shown: boolean;
  #next = 0;
  #done = 0;

  constructor(count: number, style: Style, shown: boolean) {
    this.#rows = Array<Result | undefined>(count).fill(undefined);
    this.#style = style;
    this.#shown = shown;
  }

  add(at: number, result: Result): void {
    this.#rows[at] = result;
    this.#done++;
    if (!this.#shown) return;
    const live = process.stdout.isTTY;
    let text = live ? "\r\x1b[K" : "";
    for (let row = this.#rows[this.#next]; row; row = this.#rows[this.#next]) {
      text += formatRow(row, this.#rows[this.#next - 1], this.#style);
      this.#next++;
    }
    if (live && this.#next < this.#rows.length) text += `${this.#done} of ${this.#rows.length} done ...`;
    process.stdout.write(text);
  }
}
