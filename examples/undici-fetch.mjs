// undici's own fetch through a tunnel, by its dispatcher: for programs that use undici already, with its pools and retries.
//   npm i undici && node examples/undici-fetch.mjs FILE.conf URL
import { readFile } from "node:fs/promises";
import process from "node:process";
import { Agent, fetch } from "undici";
import { Tunnel } from "wasmguard";

const [conf, url] = process.argv.slice(2);
const tunnel = await Tunnel.open(await readFile(conf, "utf8"));
const dispatcher = new Agent({ connect: tunnel.connector() });
try {
  const response = await fetch(url, { dispatcher });
  console.log(`${response.status} ${response.headers.get("content-type")}`);
  console.log(await response.text());
} finally {
  await dispatcher.close();
  await tunnel.close();
}
