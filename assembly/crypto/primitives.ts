// The primitives alone, as a module of their own (dist/primitives.wasm), for whoever takes messages apart that the
// device would not show: decode, and the lab's page. The same code as in the core, so that what is shown is what runs.
// Its memory is not shared: a page without cross-origin isolation can have it, too.

export { aeadOpen, aeadOpenNonce, aeadSeal, aeadSealNonce, xaeadOpen, xaeadSeal } from "./aead";
export { blake2s } from "./blake2s";
export { kdf1, kdf2, kdf3 } from "./hkdf";
export { x25519, x25519Public } from "./x25519";
