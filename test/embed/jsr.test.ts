// What is needed to publish on JSR: its own description of the package says the same as package.json, and Deno, where it is
// the runtime, finds nothing to object to: no slow types, no module outside of the package, no file that is left out.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (name: string): Record<string, unknown> => JSON.parse(readFileSync(`${root}${name}`, "utf8"));

const jsr = suite("jsr");

jsr("version and license are those of package.json", () => {
  const [own, npm] = [read("jsr.json"), read("package.json")];
  assert.deepEqual([own.version, own.license], [npm.version, npm.license]);
});

if ("Deno" in globalThis) {
  jsr("deno publish --dry-run has no objection, and the core is in the package", () => {
    const options = { cwd: root, encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } } as const;
    const { status, stdout, stderr } = spawnSync(process.execPath, ["publish", "--dry-run", "--allow-dirty"], options);
    const output = stdout + stderr;
    assert.equal(status, 0, output);
    for (const file of ["host/index.ts", "host/tunnel/tunnel.ts", "dist/core-plain.wasm", "dist/core-relaxed.wasm", "LICENSE"]) {
      assert.ok(output.includes(`/${file} (`), `${file} is left out:\n${output}`);
    }
  });
}

jsr.run();
