// Tells when one of some files may have changed. Folders are watched, not files: editors replace a file by another one,
// and a mounted secret is a link that is turned. What changed, and whether, is for the reader to find out. Quiet for a
// moment first, so that a file that is being written is read once, at its end.

import { type FSWatcher, existsSync, watch } from "node:fs";
import { dirname } from "node:path";
import { mayRead } from "./environment.ts";

const QUIET_MS = 200;

export class FileWatch {
  readonly #onChange: () => void;
  #watchers: FSWatcher[] = [];
  #watched = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  /** From here on these. @returns those that cannot be watched */
  set(paths: Iterable<string>): string[] {
    const targets = [...new Set([...paths].map((path) => (mayRead(dirname(path)) ? dirname(path) : path)))].sort();
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
      const watcher = watch(target, () => {
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
