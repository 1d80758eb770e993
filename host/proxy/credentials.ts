// A user name and password to compare with. Both are kept as keyed digests, so that the comparison takes the same time
// whatever is given, of any length, and nothing of them is left to be printed.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Login } from "./spec.ts";

export class Credentials {
  readonly #key = randomBytes(32);
  readonly #username: Uint8Array;
  readonly #password: Uint8Array;

  constructor({ username, password }: Login) {
    this.#username = this.#digest(Buffer.from(username));
    this.#password = this.#digest(Buffer.from(password));
  }

  matches(username: Uint8Array, password: Uint8Array): boolean {
    const name = timingSafeEqual(this.#digest(username), this.#username);
    const word = timingSafeEqual(this.#digest(password), this.#password);
    return name && word;
  }

  #digest(bytes: Uint8Array): Uint8Array {
    return createHmac("sha256", this.#key).update(bytes).digest();
  }
}
