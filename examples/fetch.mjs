// fetch() through a tunnel:
//   node examples/fetch.mjs FILE.conf URL
import { readFile } from "node:fs/promises";
import process from "node:process";
import { Tunnel } from "wasmguard";

const [conf, url] = process.argv.slice(2);
const tunnel = await Tunnel.open(await readFile(conf, "utf8"));
try {
  const response = await tunnel.fetch(url, { signal: AbortSignal.timeout(10_000) });
  console.log(`${response.status} ${response.headers.get("content-type")}`);
  console.log(await response.text());
} finally {
  await tunnel.close();
}
