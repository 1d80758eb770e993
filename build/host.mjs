// Bundles host/ to dist/: one file an entry, what they share and what is loaded later in chunks beside them; koffi left
// outside (it is optional, and native).
import { build } from "esbuild";
import { chmodSync, existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./core.mjs";

const entries = ["cli", "lane", "index", "demo"].filter((name) => existsSync(join(root, `host/${name}.ts`)));

export async function buildHost() {
  const dist = join(root, "dist");
  const old = existsSync(dist) ? readdirSync(dist).filter((name) => /^chunk-.*\.js$/.test(name)) : [];
  for (const name of old) rmSync(join(dist, name));
  await build({
    absWorkingDir: root,
    entryPoints: entries.map((name) => `host/${name}.ts`),
    outdir: "dist",
    bundle: true,
    splitting: true,
    chunkNames: "chunk-[hash]",
    format: "esm",
    platform: "node",
    target: "node20",
    external: ["koffi"],
    logLevel: "error",
  });
  chmodSync(join(root, "dist/cli.js"), 0o755);
  // The same command where Deno is at home: wg-quick runs one file by its path.
  const deno = join(root, "dist/wasmguard-deno");
  writeFileSync(deno, `#!/usr/bin/env -S deno run -A\nawait import("./cli.js");\n`);
  chmodSync(deno, 0o755);
}
