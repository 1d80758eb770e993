// Bundles host/ to dist/: one file an entry, what they share and what is loaded later in chunks beside them; koffi left
// outside (it is optional, and native).
import { build } from "esbuild";
import { chmodSync, existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./core.mjs";

const sources = { cli: "cli", lane: "lane", native: "native/worker", index: "index", demo: "demo" };
const entries = Object.entries(sources).filter(([, source]) => existsSync(join(root, `host/${source}.ts`)));

export async function buildHost() {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: Object.fromEntries(entries.map(([name, source]) => [name, `host/${source}.ts`])),
    outdir: "dist",
    bundle: true,
    splitting: true,
    chunkNames: "chunk-[hash]",
    metafile: true,
    format: "esm",
    platform: "node",
    target: "node20",
    external: ["koffi"],
    // Bundled CommonJS (ws) asks for node's own modules; and ws for native helpers by the environment, which Deno guards.
    banner: { js: 'import { createRequire as makeRequire } from "node:module"; const require = makeRequire(import.meta.url);' },
    define: { "process.env.WS_NO_BUFFER_UTIL": '"1"', "process.env.WS_NO_UTF_8_VALIDATE": '"1"' },
    logLevel: "error",
  });
  // Chunks of builds before: only now, so that a failed build leaves the last good one whole.
  const made = new Set(Object.keys(metafile.outputs));
  const old = readdirSync(join(root, "dist")).filter((name) => /^chunk-.*\.js$/.test(name) && !made.has(`dist/${name}`));
  for (const name of old) rmSync(join(root, "dist", name));
  chmodSync(join(root, "dist/cli.js"), 0o755);
  // The same command where Deno is at home: wg-quick runs one file by its path.
  const deno = join(root, "dist/wasmguard-deno");
  writeFileSync(deno, `#!/usr/bin/env -S deno run -A\nawait import("./cli.js");\n`);
  chmodSync(deno, 0o755);
}
