#!/usr/bin/env -S deno run --allow-net --allow-read=.
// fetch() through a tunnel on Deno. The network is for UDP to the peer, reading for the configuration and the core beside
// the package (dist/core-*.wasm); nothing else is needed, and no native code is loaded.
//   deno run --allow-net --allow-read=. examples/deno-fetch.ts FILE.conf URL
import { Tunnel } from "wasmguard";

const [conf, url] = Deno.args;
await using tunnel = await Tunnel.open(await Deno.readTextFile(conf));
const response = await tunnel.fetch(url, { signal: AbortSignal.timeout(10_000) });
console.log(`${response.status} ${response.headers.get("content-type")}`);
console.log(await response.text());
