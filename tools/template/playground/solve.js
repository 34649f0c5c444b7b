// The closed form of chapter 03, as in fleke_lib/edit/coupled.py, on the packets of tools/playground.py.
const MOST = 1.2; // bound of alpha
const UNIT = 2 ** -16; // of the hash

const dot = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] * b[i]; return sum; };
const add = (a, b, factor = 1) => { for (let i = 0; i < a.length; i++) a[i] += factor * b[i]; return a; };
const zeros = (rows, width) => Array.from({ length: rows }, () => new Float64Array(width));
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// The packets for an edit of the last 1, 2, ... layers: for each a list of layers with what every fact brings there.
function unpack(data) {
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const scales = bytes(data.scales), numbers = bytes(data.numbers), facts = data.facts.length;
  let row = 0, at = 0;
  const triangle = (size) => zeros(size, size).map((line, i) => {
    const scale = scales.getFloat32(4 * row++, true);
    for (let j = 0; j <= i; j++) line[j] = numbers.getInt16(2 * at++, true) * scale;
    return line;
  });
  return data.layers.map((_, i) => {
    const numbered = data.layers.slice(data.layers.length - i - 1);
    const layers = numbered.map((number, l) => {
      const rows = triangle((l ? 3 : 2) * facts), means = rows.slice(0, facts), axes = rows.slice(-facts);
      const bases = means.map((mean, f) => (l ? add(mean.slice(), rows[facts + f], -1) : mean));
      return { number, means, bases, axes, rest: data.rest[i][l] };
    });
    const shares = triangle(numbered.length * facts);
    layers.forEach((layer, l) => { layer.shares = shares.slice(l * facts, (l + 1) * facts); });
    return layers;
  });
}

// X with A X = B for a symmetric positive definite A, by Cholesky's method; B and X are lists of columns.
function spdSolve(A, B) {
  const n = A.length, factor = zeros(n, n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let rest = A[i][j];
      for (let k = 0; k < j; k++) rest -= factor[i][k] * factor[j][k];
      factor[i][j] = i === j ? Math.sqrt(rest) : rest / factor[j][j];
    }
  }
  return B.map((column) => {
    const x = column.slice();
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < i; k++) x[i] -= factor[i][k] * x[k];
      x[i] /= factor[i][i];
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let k = i + 1; k < n; k++) x[i] -= factor[k][i] * x[k];
      x[i] /= factor[i][i];
    }
    return x;
  });
}

// All layers' changes dW = sum_n wanted[n] seen[n]^T over the facts inside, from below.
function solve(layers, inside, lambda) {
  const width = layers[0].shares[0].length, m = layers.length, here = inside.map((_, n) => n);
  const A = zeros(inside.length, width), B = zeros(inside.length, width);
  const residuals = inside.map((i) => layers[0].shares[i].map((x) => m * x));
  return layers.map((layer, l) => {
    const supposed = sum(here.map((n) => dot(B[n], B[n])));
    const alpha = supposed ? Math.min(Math.max(sum(here.map((n) => dot(A[n], B[n]))) / supposed, 0), MOST) : 1;
    const keys = inside.map((i) => add(add(layer.bases[i].slice(), layer.bases[i], -alpha), layer.means[i], alpha));
    const left = m - l;
    const wanted = inside.map((i, n) => layer.shares[i].map((r, d) =>
      r + ((1 - alpha) * (residuals[n][d] - left * r) - (A[n][d] - alpha * B[n][d])) / left));
    const size = layer.means[0].length, system = zeros(size, size);
    const weight = lambda + sum(inside.map((i) => layer.rest[i]));
    for (let d = 0; d < size; d++) system[d][d] = weight;
    for (const row of [...keys, ...inside.map((i) => layer.axes[i])]) {
      for (let d = 0; d < size; d++) if (row[d]) add(system[d], row, row[d]);
    }
    const seen = spdSolve(system, keys);
    for (const n of here) {
      for (const other of here) add(A[n], wanted[other], dot(seen[other], keys[n]));
      add(B[n], layer.shares[inside[n]]);
    }
    return { number: layer.number, alpha, wanted, seen, width, size };
  });
}

// What arrives at the key of one question, whose answers are the facts `asked`. The key moves from the base model's by
// what has arrived of each answer so far. u: how much of each answer's wanted change, B, arrives over all layers; rest:
// what arrives beside; parts: what each fact of the edit brings, and with which factor, as a mean over layers.
function reach(layers, changes, asked) {
  const { width, wanted } = changes[0], arrived = new Float64Array(width), B = zeros(asked.length, width);
  const parts = wanted.map(() => new Float64Array(width)), factors = wanted.map(() => 0);
  let found = { u: asked.map(() => 0), rest: arrived };
  layers.forEach((layer, l) => {
    const key = layer.bases[asked[0]].slice();
    asked.forEach((f, i) => {
      const u = Math.min(Math.max(found.u[i], 0), MOST);
      add(add(key, layer.means[f], u), layer.bases[f], -u);
      add(B[i], layer.shares[f]);
    });
    changes[l].seen.forEach((seen, n) => {
      const c = dot(seen, key);
      factors[n] += c / layers.length;
      add(parts[n], changes[l].wanted[n], c);
      add(arrived, changes[l].wanted[n], c);
    });
    found = explained(arrived, B);
  });
  return { ...found, B, parts, factors };
}

// dW of one layer as rows.
function dense({ wanted, seen, width, size }) {
  const rows = zeros(width, size);
  wanted.forEach((left, n) => rows.forEach((row, d) => { if (left[d]) add(row, seen[n], left[d]); }));
  return rows;
}

// What the hash covers: each layer's number, then dW in whole units, row by row, as 32-bit little-endian integers.
function serialised(changes) {
  const parts = changes.map((change) => {
    const name = new TextEncoder().encode(`${change.number}:`);
    const bytes = new Uint8Array(name.length + 4 * change.width * change.size);
    bytes.set(name);
    const view = new DataView(bytes.buffer);
    let at = name.length;
    for (const row of dense(change)) {
      for (const x of row) { view.setInt32(at, Math.floor(x / UNIT + 0.5), true); at += 4; }
    }
    return bytes;
  });
  const whole = new Uint8Array(sum(parts.map((part) => part.length)));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

// By how much of each wanted change the delivered one is best explained (least squares), and what is left over.
function explained(delivered, wanted) {
  const gram = wanted.map((a) => Float64Array.from(wanted, (b) => dot(a, b)));
  const [u] = spdSolve(gram, [Float64Array.from(wanted, (a) => dot(a, delivered))]);
  const rest = delivered.slice();
  wanted.forEach((one, i) => add(rest, one, -u[i]));
  return { u: Array.from(u), rest };
}

// |a - b| / |b - c| for edits given by their changes: how far a is from b, as a share of how far c is.
function missed(edit, goal, before) {
  let far = 0, whole = 0;
  goal.forEach((_, l) => {
    const [a, b, c] = [edit, goal, before].map((one) => one[l]);
    b.forEach((row, d) => row.forEach((x, e) => { far += (a[d][e] - x) ** 2; whole += (c[d][e] - x) ** 2; }));
  });
  return Math.sqrt(far / whole);
}
