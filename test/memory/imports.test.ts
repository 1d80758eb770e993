// Imports run one way. The rules are those of the design: in the core crypto <- noise <- tunnel <- index over leaves;
// in the host platform/types <- platform/* <- device <- cli; between the two one bridge, assembly/{abi,protocol}.ts.
// Types are erased, so `import type` and `type` names do not count as a direction.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";

const root = fileURLToPath(new URL("../../", import.meta.url));

interface Import {
  /** path from the root, or a package's name */
  target: string;
  /** whether a value comes with it */
  value: boolean;
}

/** Text without comments; strings stay. */
function withoutComments(text: string): string {
  const pattern =
    /("(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g;
  return text.replace(pattern, (_, string) => string ?? "");
}

/** Whether a clause like `{ type A, b }` or `type { A }` brings a value in. */
function bringsValue(clause: string): boolean {
  if (/^\s*type\b(?!\s*,|\s*from)/.test(clause)) return false;
  const names = /\{([\s\S]*)\}/.exec(clause);
  if (!names) return true;
  return names[1].split(",").some((name) => name.trim() !== "" && !/^type\s/.test(name.trim()));
}

function importsOf(file: string): Import[] {
  const text = withoutComments(readFileSync(join(root, file), "utf8"));
  const imports: Import[] = [];
  const add = (specifier: string, value: boolean): void => {
    let target = specifier;
    if (specifier.startsWith(".")) {
      target = relative(root, join(root, dirname(file), specifier));
      if (!target.endsWith(".ts")) target += ".ts";
    }
    imports.push({ target, value });
  };
  const statement = /^[ \t]*(?:import|export)\b([^;"'=(]*?)\bfrom\s*["']([^"']+)["']/gm;
  for (const [, clause, specifier] of text.matchAll(statement)) add(specifier, bringsValue(clause));
  for (const [, specifier] of text.matchAll(/^[ \t]*import\s*["']([^"']+)["']/gm)) add(specifier, true);
  for (const [, specifier] of text.matchAll(/\bimport\(\s*["']([^"']+)["']\s*\)/g)) add(specifier, true);
  return imports;
}

const sources = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((name) => name.endsWith(".ts") && !name.endsWith(".d.ts"))
    .sort();

const assembly = sources("assembly");
const host = sources("host");
const graph = new Map([...assembly, ...host].map((file) => [file, importsOf(file)]));

type Rule = (target: string, value: boolean, file: string) => boolean;

/** Imports of the files that `from` picks which the rule refuses, as "file -> target". */
function refused(from: (file: string) => boolean, allowed: Rule): string[] {
  const found: string[] = [];
  for (const [file, imports] of graph) {
    if (!from(file)) continue;
    for (const { target, value } of imports) if (!allowed(target, value, file)) found.push(`${file} -> ${target}`);
  }
  return found;
}

const inFolder = (folder: string) => (file: string) => file.startsWith(folder + "/");

const core = suite("imports of the core");

core("every import statement was read", () => {
  for (const [file, imports] of graph) {
    const text = withoutComments(readFileSync(join(root, file), "utf8"));
    const statement = /^import\b(?!\.meta)|^export\s*(?:type\s*)?(?:\*|\{[^}]*\})\s*from\b|\bimport\(/gm;
    const statements = text.match(statement) ?? [];
    assert.equal(imports.length, statements.length, file);
  }
  assert.deepEqual(importsOf("assembly/threads/mailbox.ts"), [
    { target: "assembly/abi.ts", value: true },
    { target: "assembly/memory.ts", value: true },
  ]);
  assert.ok(assembly.length > 30 && host.length > 30);
});

core("nothing but the core's own files", () => {
  assert.deepEqual(refused(inFolder("assembly"), (target) => assembly.includes(target)), []);
});

const LEAVES = ["assembly/abi.ts", "assembly/protocol.ts", "assembly/memory.ts"];

core("abi, protocol and memory are leaves", () => {
  const constants = LEAVES.slice(0, 2);
  assert.deepEqual(refused((file) => constants.includes(file), () => false), []);
  assert.deepEqual(refused((file) => file === "assembly/memory.ts", (target) => constants.includes(target)), []);
});

const LAYERS: [folder: string, below: string[]][] = [
  ["crypto", []],
  ["threads", []],
  ["noise", ["crypto"]],
  ["offload", []],
  ["tunnel", ["crypto", "noise", "threads", "offload"]],
];

for (const [folder, below] of LAYERS) {
  core(`${folder} imports only ${[folder, ...below, "leaves"].join(", ")}`, () => {
    const allowed = [folder, ...below].map((name) => `assembly/${name}/`);
    const wrong = refused(
      inFolder(`assembly/${folder}`),
      (target) => LEAVES.includes(target) || allowed.some((prefix) => target.startsWith(prefix)),
    );
    assert.deepEqual(wrong, []);
  });
}

core("no file outside of the layers, and nobody imports index", () => {
  const known = [...LEAVES, "assembly/index.ts"];
  const folders = LAYERS.map(([folder]) => `assembly/${folder}/`);
  const isLayered = (file: string) => folders.some((folder) => file.startsWith(folder));
  const strangers = assembly.filter((file) => !known.includes(file) && !isLayered(file));
  assert.deepEqual(strangers, []);
  assert.deepEqual(refused(() => true, (target) => target !== "assembly/index.ts"), []);
});

core.run();

const outer = suite("imports of the host");

/** Files of values and text alone: no core, no platform, no clock; only the constants of records. */
const PURE = ["config", "endpoint", "errors", "ip", "keys", "log", "model", "show", "uapi"].map(
  (name) => `host/${name}.ts`,
);
const BRIDGE = LEAVES.slice(0, 2);
/** What starts a program: no other file needs them. */
const ENTRIES = ["cli", "index", "lane"].map((name) => `host/${name}.ts`);

outer("of the core only abi and protocol", () => {
  const wrong = refused(inFolder("host"), (target) => !target.startsWith("assembly/") || BRIDGE.includes(target));
  assert.deepEqual(wrong, []);
});

/** Who may use which package. All but the loader are bundled, in chunks that load when they are needed. */
const PACKAGES: [user: string, name: string][] = [
  ["host/core.ts", "@assemblyscript/loader"],
  ["host/transport/", "ws"],
  ["host/conform/", "@noble/"],
  ["host/netstack/dns.ts", "@leichtgewicht/dns-packet"],
];

outer("of packages only node's own, and those named above where they are named", () => {
  const wrong = refused(inFolder("host"), (target, value, file) => {
    if (!value || target.startsWith("host/") || target.startsWith("assembly/") || target.startsWith("node:")) return true;
    return PACKAGES.some(([user, name]) => file.startsWith(user) && target.startsWith(name));
  });
  assert.deepEqual(wrong, []);
});

outer("netstack and capture's readers know no platform", () => {
  const readers = ["dissector", "keylog", "pcapng", "primitives", "udp-packet"].map((name) => `host/capture/${name}.ts`);
  for (const file of readers) assert.ok(host.includes(file), file);
  const wrong = refused(
    (file) => file.startsWith("host/netstack/") || readers.includes(file),
    (target, value) => !value || !(target.startsWith("node:") || target.startsWith("host/platform/")),
  );
  assert.deepEqual(wrong, []);
});

outer("platform/types is a leaf", () => {
  assert.deepEqual(refused((file) => file === "host/platform/types.ts", (_, value) => !value), []);
});

outer("a platform imports itself, what it shares and pure files", () => {
  for (const name of ["linux", "portable"]) {
    const own = `host/platform/${name}/`;
    const wrong = refused(inFolder(`host/platform/${name}`), (target, value) => {
      if (!value || !target.startsWith("host/") || target.startsWith(own)) return true;
      return PURE.includes(target) || /^host\/platform\/[^/]+\.ts$/.test(target);
    });
    assert.deepEqual(wrong, []);
  }
});

outer("device, driver and core know no platform", () => {
  const files = ["host/device.ts", "host/driver.ts", "host/core.ts"];
  const above = [...ENTRIES, "host/daemon.ts", "host/lanes.ts", "host/portable.ts"];
  const wrong = refused(
    (file) => files.includes(file),
    (target, value) => !value || (!target.startsWith("host/platform/") && !above.includes(target)),
  );
  assert.deepEqual(wrong, []);
});

outer("pure files import pure files", () => {
  for (const file of PURE) assert.ok(host.includes(file), file);
  const wrong = refused(
    (file) => PURE.includes(file),
    (target, value) => !value || PURE.includes(target) || BRIDGE.includes(target),
  );
  assert.deepEqual(wrong, []);
});

outer("nobody imports what starts a program", () => {
  const wrong = refused((file) => file !== "host/cli.ts", (target, value) => !value || !ENTRIES.includes(target));
  assert.deepEqual(wrong, []);
});

outer("no value goes in a circle", () => {
  const state = new Map<string, "open" | "done">();
  const visit = (file: string, path: string[]): void => {
    if (state.get(file) === "done") return;
    assert.ok(state.get(file) !== "open", `a circle: ${[...path, file].join(" -> ")}`);
    state.set(file, "open");
    for (const { target, value } of graph.get(file) ?? []) if (value) visit(target, [...path, file]);
    state.set(file, "done");
  };
  for (const file of host) visit(file, []);
});

outer("only core.ts makes a memory or an instance", () => {
  for (const file of host) {
    const text = withoutComments(readFileSync(join(root, file), "utf8"));
    const makes = /new WebAssembly\.(?:Memory|Instance)|instantiate(?:Sync)?\(/.test(text);
    assert.equal(makes, file === "host/core.ts", file);
  }
});

outer.run();

const constants = suite("files that two compilers read");

for (const file of LEAVES.slice(0, 2)) {
  constants(`${file} holds export const NAME = <integer expression>, nothing else`, async () => {
    const values: Record<string, unknown> = await import(`../../${file}`);
    const known = new Set<string>();
    const text = withoutComments(readFileSync(join(root, file), "utf8"));
    for (const line of text.split("\n").filter((line) => line.trim() !== "")) {
      const match = /^export const ([A-Z][A-Z0-9_]*) = ([^;]+);\s*$/.exec(line);
      assert.ok(match, line);
      const [, name, expression] = match;
      const left = expression.replace(/0x[0-9a-f_]+|\b[0-9][0-9_]*\b|<<|[-+*/()|]/g, " ").split(/\s+/).filter(Boolean);
      assert.deepEqual(left.filter((word) => !known.has(word)), [], line);
      assert.ok(!known.has(name), `${name} stands twice`);
      known.add(name);
      const value = values[name];
      assert.ok(Number.isSafeInteger(value), `${name} = ${value}`);
    }
    assert.deepEqual(Object.keys(values).sort(), [...known].sort());
    assert.ok(known.size > 40);
  });
}

constants.run();
