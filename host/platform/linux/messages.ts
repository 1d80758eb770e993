// An array of struct mmsghdr with one iovec, one name and some control room each: what sendmmsg and recvmmsg take.
// LP64; musl's narrower iovlen and controllen have their padding where the upper half lies here, and it stays zero.
//
//   mmsghdr, 64 bytes: name* @0 | namelen u32 @8 | iov* @16 | iovlen @24 | control* @32 | controllen @40 | flags @48
//                      | length u32 @56: bytes sent or received
//   iovec, 16 bytes:   base* @0 | length @8

import type { Libc } from "./libc.ts";
import { NativeMemory } from "./native.ts";
import { NAME_SIZE } from "./sockaddr.ts";

export const MMSGHDR_SIZE = 64;
export const IOVEC_SIZE = 16;

/** Word indices in one mmsghdr. */
export const MSG_NAMELEN = 2;
export const MSG_CONTROL = 8;
export const MSG_CONTROLLEN = 10;
export const MSG_FLAGS = 12;
export const MSG_LENGTH = 14;
export const MMSGHDR_WORDS = MMSGHDR_SIZE / 4;

export class Messages {
  readonly native: NativeMemory;
  readonly words: Uint32Array;
  readonly count: number;
  readonly #iovecs: number;
  readonly #names: number;
  readonly #controls: number;
  readonly #controlSize: number;

  constructor(libc: Libc, count: number, controlSize: number) {
    this.count = count;
    this.#iovecs = MMSGHDR_SIZE * count;
    this.#names = this.#iovecs + IOVEC_SIZE * count;
    this.#controls = this.#names + NAME_SIZE * count;
    this.#controlSize = controlSize;
    const native = new NativeMemory(libc.address, this.#controls + controlSize * count);
    this.native = native;
    this.words = native.words;
    for (let i = 0; i < count; i++) {
      const header = MMSGHDR_SIZE * i;
      native.putPointer(header, native.address + this.#names + NAME_SIZE * i);
      native.putPointer(header + 16, native.address + this.#iovecs + IOVEC_SIZE * i);
      native.putPointer(header + 24, 1);
      native.putPointer(header + 32, native.address + this.#controls + controlSize * i);
    }
  }

  /** Absolute address of message `index`. */
  address(index: number): number {
    return this.native.address + MMSGHDR_SIZE * index;
  }

  /** Word index of the name of message `index`. */
  name(index: number): number {
    return (this.#names + NAME_SIZE * index) / 4;
  }

  /** Word index of the control room of message `index`. */
  control(index: number): number {
    return (this.#controls + this.#controlSize * index) / 4;
  }

  /** Sets the bytes of message `index`: an absolute address that was checked, and a length. */
  putBuffer(index: number, address: number, length: number): void {
    const iovec = this.#iovecs + IOVEC_SIZE * index;
    this.native.putPointer(iovec, address);
    this.words[(iovec + 8) / 4] = length;
  }
}
