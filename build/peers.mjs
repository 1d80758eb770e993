// Fetches wireguard-go, the implementation that the system tests and the benchmark compare with, into
// node_modules/.cache/peers. A stable release may hold one from before the offload work, so it comes from Debian's
// unstable suite, whose binary asks little of a C library: through a source list, index and cache of its own, on the
// mirror that this machine's apt already uses, checked with the keys it already has. Nothing of the system's apt is
// changed and no root is needed. Where that fails, the package of this machine's own release is taken, and the printed
// version says so. Building it with Go was rejected: a compiler for one binary.
//
//   node build/peers.mjs             fetch what is missing, print path and version
//   WIREGUARD_GO=/path node ...      use that one

import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const cache = join(root, "node_modules/.cache/peers");
const SUITE = "sid";
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** The first executable of that name in PATH, or null. */
function which(name) {
  const places = [...(process.env.PATH ?? "").split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"];
  return places.map((place) => join(place, name)).find((path) => existsSync(path)) ?? null;
}

/**
 * A wireguard-go that is here already: $WIREGUARD_GO, the one fetched before, or the system's.
 * @returns {{ path: string, version: string } | null}
 */
export function findWireguardGo() {
  const fetched = join(cache, "wireguard-go");
  const path = process.env.WIREGUARD_GO || (existsSync(fetched) ? fetched : which("wireguard-go"));
  if (!path) return null;
  const noted = join(cache, "wireguard-go.version");
  if (path === fetched && existsSync(noted)) return { path, version: readFileSync(noted, "utf8").trim() };
  return { path, version: execFileSync(path, ["--version"], { encoding: "utf8" }).split("\n")[0] };
}

/**
 * The same, fetched first where it is not here.
 * @throws {Error} what apt said, when there is no way to get one
 */
export function fetchWireguardGo() {
  const found = findWireguardGo();
  if (found) return found;
  const dir = mkdtempSync(join(tmpdir(), "wasmguard-peers-"));
  try {
    const failures = [];
    for (const attempt of [downloadUnstable, downloadRelease]) {
      try {
        return install(attempt(dir), dir);
      } catch (error) {
        failures.push(`${attempt.name}: ${error.stderr?.toString().trim() || error.message}`);
      }
    }
    throw new Error(`Cannot fetch wireguard-go: ${failures.join("\n")}`);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The mirror of this machine's own release, from apt itself: it reads every format of source list. */
function mirror() {
  const format = ["--format", "$(ORIGIN) $(REPO_URI) $(RELEASE)", "Created-By: Packages", "Component: main"];
  const targets = execFileSync("apt-get", ["indextargets", ...format], { encoding: "utf8" });
  for (const line of targets.split("\n")) {
    const [origin, uri, release] = line.split(" ");
    if (origin === "Debian" && !release.includes("-")) return uri;
  }
  throw new Error("apt has no source of Debian's main archive, or apt-get update was never run");
}

function downloadUnstable(dir) {
  if (!existsSync(KEYRING)) throw new Error(`${KEYRING} is missing (package debian-archive-keyring)`);
  for (const name of ["lists/partial", "cache/archives/partial"]) mkdirSync(join(dir, name), { recursive: true });
  writeFileSync(join(dir, "sources.list"), `deb [signed-by=${KEYRING}] ${mirror()} ${SUITE} main\n`);
  const options = [
    `Dir::Etc::SourceList=${join(dir, "sources.list")}`,
    "Dir::Etc::SourceParts=-",
    `Dir::State::Lists=${join(dir, "lists")}`,
    `Dir::Cache=${join(dir, "cache")}`,
    "Acquire::Languages=none",
    "APT::Sandbox::User=", // the user that apt would change to cannot read our folder
  ].flatMap((option) => ["-o", option]);
  const run = (...args) => execFileSync("apt-get", ["-q", ...options, ...args], { cwd: dir, stdio: "pipe" });
  run("update");
  run("download", "wireguard-go");
  return `Debian ${SUITE}`;
}

function downloadRelease(dir) {
  execFileSync("apt-get", ["-q", "-o", "APT::Sandbox::User=", "download", "wireguard-go"], { cwd: dir, stdio: "pipe" });
  return "this machine's release";
}

function install(origin, dir) {
  const deb = readdirSync(dir).find((name) => name.endsWith(".deb"));
  execFileSync("dpkg-deb", ["-x", join(dir, deb), join(dir, "tree")], { stdio: "pipe" });
  const unpacked = join(dir, "tree/usr/bin/wireguard-go");
  execFileSync(unpacked, ["--version"], { stdio: "pipe" }); // does it run here?
  mkdirSync(cache, { recursive: true });
  const path = join(cache, "wireguard-go");
  // Copied beside and renamed: the temporary folder may be another file system, and a half copy must not be found.
  const fresh = `${path}.${process.pid}`;
  execFileSync("cp", [unpacked, fresh]);
  renameSync(fresh, path);
  const version = `wireguard-go ${deb.split("_")[1]} (${origin})`;
  writeFileSync(join(cache, "wireguard-go.version"), version + "\n");
  return { path, version };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const { path, version } = fetchWireguardGo();
    console.log(`${version}: ${path}`);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
