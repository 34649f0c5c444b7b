// SHA-256 (FIPS 180-4). The browser's own needs a secure context, and not every browser counts a page from a folder as one.
const ROUND = (() => {
  const found = [];
  for (let n = 2; found.length < 64; n++) {
    if (!found.some(([prime]) => n % prime === 0)) found.push([n]);
  }
  // the first 32 bits of the fractional parts of the cube roots of the first 64 primes
  return Uint32Array.from(found, ([prime]) => fraction(prime, 3));
})();

// The first 32 bits of the fractional part of a root, by bisection in whole numbers: no rounding.
function fraction(prime, power) {
  const target = BigInt(prime) << BigInt(32 * power);
  let low = 0n, high = 1n << 40n;
  while (high - low > 1n) {
    const middle = (low + high) / 2n;
    if (middle ** BigInt(power) <= target) low = middle; else high = middle;
  }
  return Number(low & 0xffffffffn);
}

function sha256(bytes) {
  const state = Uint32Array.from([2, 3, 5, 7, 11, 13, 17, 19], (prime) => fraction(prime, 2));
  const padded = new Uint8Array((bytes.length + 72) & ~63);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, bytes.length << 3);
  const word = new Uint32Array(64);
  const turn = (x, by) => (x >>> by) | (x << (32 - by));
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) word[i] = view.getUint32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const x = word[i - 15], y = word[i - 2];
      const first = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3), second = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10);
      word[i] = word[i - 16] + first + word[i - 7] + second;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[i] + word[i]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + one) | 0; // one after the other: an array here would take most of the time
      d = c; c = b; b = a; a = (one + two) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] += value; });
  }
  return Array.from(state, (value) => value.toString(16).padStart(8, "0")).join("");
}
