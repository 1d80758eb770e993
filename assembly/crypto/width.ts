// Whether this is the wide build: `--use WASMGUARD_WIDE=1` of its target in asconfig.json.
//
// V8 with --experimental-wasm-revectorize joins two 128-bit operations into one of AVX2, where they are alike and all
// that comes of them is stored side by side. So the wide build does two groups of four blocks where the others do one,
// in pairs of operations alike: chacha20x8.ts, poly1305x8.ts. Its results are the same with and without that flag; its
// speed is not: unpaired it is a fifth slower than the relaxed build. Outside of crypto/ all builds are the same.

// @ts-ignore: an integer that asc introduces
export const WIDE: bool = isDefined(WASMGUARD_WIDE);

/** Longer messages are enciphered in groups of eight blocks: two groups of four would be slower. */
export const CIPHER8_LEN: u32 = 192;

/** The MAC of longer packets is made in groups of eight blocks: for shorter ones, four more powers of r cost more. */
export const MAC8_LEN: u32 = 400;
