// Bytes in the page: base64, gzip, checksums, and weights of 32, 16 or 8 bits.

export function fromBase64(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

export function toBase64(bytes) {
  let binary = "";
  for (let i = 0; i < bytes.length; i += 32768) binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(binary);
}

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

export const gunzip = (bytes) => through(bytes, new DecompressionStream("gzip"));
export const gzip = (bytes) => through(bytes, new CompressionStream("gzip"));

function halfToFloat(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The weights of a page, float32, from little-endian bytes. `int8` has a float32 factor before each row of whole numbers.
export function weightsOf(bytes, kind, table) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = table.reduce((sum, { size }) => sum + size, 0);
  const weights = new Float32Array(count);
  if (kind === "float32") for (let i = 0; i < count; i++) weights[i] = view.getFloat32(4 * i, true);
  if (kind === "float16") for (let i = 0; i < count; i++) weights[i] = halfToFloat(view.getUint16(2 * i, true));
  if (kind === "int8") {
    let at = 0, i = 0;
    for (const { rows, columns } of table) {
      for (let r = 0; r < rows; r++) {
        const factor = view.getFloat32(at, true);
        at += 4;
        for (let c = 0; c < columns; c++) weights[i++] = Math.fround(factor * view.getInt8(at++));
      }
    }
  }
  return weights;
}

let crcTable = null;

export function crc32(bytes, crc = 0) {
  crcTable ??= Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  crc = ~crc;
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
