// Bundles host/web/ to dist/lab/: a folder that any static server can serve. index.html, style.css, one script, the
// wasm files it loads, and the test vectors as one JSON.
import { build } from "esbuild";
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { newest, root } from "./core.mjs";

const builds = ["page", "plain", "relaxed"];
const wasm = ["primitives.wasm", ...builds.flatMap((name) => [`core-${name}.wasm`, `speed-${name}.wasm`])];

export async function buildWeb() {
  const target = join(root, "dist/lab");
  // Written last, so that it tells of a whole build.
  const last = join(target, "vectors.json");
  const sources = newest(
    "host",
    "assembly/abi.ts",
    "assembly/protocol.ts",
    "build/web.mjs",
    "test/vectors",
    "package-lock.json",
    ...wasm.map((name) => `dist/${name}`),
  );
  if (existsSync(last) && statSync(last).mtimeMs >= sources) return;
  mkdirSync(target, { recursive: true });
  await build({
    absWorkingDir: root,
    entryPoints: { app: "host/web/main.ts" },
    outdir: "dist/lab",
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    // Pages have no setImmediate; never reached in one: reading files, V8's flags, and the WebSocket of old Nodes.
    inject: ["host/web/immediate.ts"],
    external: ["node:fs/promises", "node:v8", "ws"],
    logLevel: "error",
  });
  for (const name of ["index.html", "style.css"]) copyFileSync(join(root, "host/web", name), join(target, name));
  for (const name of wasm) copyFileSync(join(root, "dist", name), join(target, name));
  writeFileSync(last, JSON.stringify(readVectors()));
}

/** What host/web/vectors.ts runs: the files of test/vectors/ without what only people read. */
function readVectors() {
  const read = (name) => readFileSync(join(root, "test/vectors", name), "utf8");
  const groups = (name) => JSON.parse(read(name)).testGroups;
  const sealed = (name, ivSize) =>
    groups(name)
      .filter((group) => group.ivSize === ivSize)
      .flatMap(({ tests }) => tests)
      .map(({ tcId: id, key, iv, aad, msg, ct, tag, result }) => ({
        id,
        key,
        iv,
        aad,
        msg,
        ct,
        tag,
        valid: result === "valid",
      }));
  return {
    aead: sealed("wycheproof_chacha20_poly1305.json", 96),
    xaead: sealed("wycheproof_xchacha20_poly1305.json", 192),
    x25519: groups("wycheproof_x25519.json")
      .flatMap(({ tests }) => tests)
      .map(({ tcId: id, private: scalar, public: point, shared }) => ({ id, private: scalar, public: point, shared })),
    blake2s: [...read("blake2s-kat.txt").matchAll(/^in:\t(.*)\nkey:\t(.*)\nhash:\t(.*)$/gm)].map(
      ([, input, key, hash]) => ({ in: input, key, hash }),
    ),
  };
}
