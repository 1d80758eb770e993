// What a program loads with `import "wasmguard"`: the bundle with all that it imports at once, and the core; compressed as a
// web server would send them. What is loaded later, when it is asked for, does not count.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { suite } from "uvu";

const LIMIT = 150_000;
const dist = new URL("../../dist/", import.meta.url);

/** The file and what it imports statically, and what those do. */
function closure(file: string, found = new Set<string>()): Set<string> {
  if (found.has(file)) return found;
  found.add(file);
  const text = readFileSync(fileURLToPath(new URL(file, dist)), "utf8");
  for (const [, name] of text.matchAll(/^\s*(?:import|export)\b[^;"'(]*?["']\.\/([^"']+)["'];?\s*$/gm)) closure(name, found);
  for (const [, name] of text.matchAll(/^\} from "\.\/([^"']+)";$/gm)) closure(name, found);
  return found;
}

const size = suite("size of the package");

size("main export and core are below 150 KB compressed", () => {
  const files = [...closure("index.js"), "core-relaxed.wasm"];
  assert.ok(files.length > 2, "the bundle imports none of its chunks");
  const sizes = files.map((file) => [file, gzipSync(readFileSync(fileURLToPath(new URL(file, dist)))).length] as const);
  const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
  assert.ok(total < LIMIT, `${total} bytes: ${sizes.map(([file, bytes]) => `${file} ${bytes}`).join(", ")}`);
});

size("no package is needed at run time: all imports are node's own or ours", () => {
  for (const file of closure("index.js")) {
    const text = readFileSync(fileURLToPath(new URL(file, dist)), "utf8");
    const packages = [...text.matchAll(/^(?:import|\} from|export)\b[^;"'(]*["']([^."'][^"']*)["'];?$/gm)].map(([, name]) => name);
    assert.deepEqual(packages.filter((name) => !name.startsWith("node:")), [], file);
  }
});

size.run();
