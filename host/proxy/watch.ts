// Tells when one of some files may have changed. Folders are watched, not files: editors replace a file by another one,
// and a mounted secret is a link that is turned ("..data" of Kubernetes). Of a folder's other files nothing is heard:
// it may be a busy one. What changed, and whether, is for the reader to find out. Quiet for a moment first, so that a
// file that is being written is read once, at its end.

import { type FSWatcher, existsSync, watch } from "node:fs";
import { basename, dirname } from "node:path";
import { mayRead } from "./environment.ts";

const QUIET_MS = 200;

export class FileWatch {
  readonly #onChange: () => void;
  #watchers: FSWatcher[] = [];
  #watched = "";
  #names = new Set<string>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  /** From here on these. @returns those that cannot be watched */
  set(paths: Iterable<string>): string[] {
    const files = [...paths];
    this.#names = new Set(files.map((path) => basename(path)));
    const targets = [...new Set(files.map((path) => (mayRead(dirname(path)) ? dirname(path) : path)))].sort();
    if (targets.join("\0") === this.#watched) return [];
    this.#closeWatchers();
    this.#watched = targets.join("\0");
    return targets.filter((target) => !this.#watch(target));
  }

  close(): void {
    this.#closeWatchers();
    clearTimeout(this.#timer);
  }

  #watch(target: string): boolean {
    try {
      if (!existsSync(target)) return false; // Deno would say so later, by an event
      const watcher = watch(target, (_, name) => {
        if (name !== null && !this.#names.has(name) && !name.startsWith("..")) return;
        clearTimeout(this.#timer);
        this.#timer = setTimeout(this.#onChange, QUIET_MS);
      });
      watcher.on("error", () => watcher.close()); // the folder is gone; a SIGHUP still works
      this.#watchers.push(watcher);
      return true;
    } catch {
      return false;
    }
  }

  #closeWatchers(): void {
    for (const watcher of this.#watchers.splice(0)) watcher.close();
    this.#watched = "";
  }
}
