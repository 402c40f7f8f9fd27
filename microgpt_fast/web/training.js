// Training as training/trainer.py does it, one document per step: the same random stream, order, rates and losses.

import { Model } from "./core.js";
import { TextError, Tokenizer, charactersOf } from "./tokenizer.js";

export const DEFAULTS = {
  n_layer: 1, n_embd: 16, n_head: 4, block_size: 16, activation: "relu",
  num_steps: 1000, learning_rate: 0.01, beta1: 0.85, beta2: 0.99, eps_adam: 1e-8, seed: 42, data_mode: "lines",
};

const MASK = (1n << 64n) - 1n;

// SplitMix64's output function; see data/batches.py.
function mix(x) {
  x = (x * 0x9e3779b97f4a7c15n) & MASK;
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

// White space that Python's str.strip() takes away.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const ENDS = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, "g");

// The documents of a text: its lines without the blanks around them, or all of it.
export function documentsOf(text, mode) {
  if (mode === "stream") return text ? [text] : [];
  return text.split(/\r\n|\r|\n/).map((line) => line.replace(ENDS, "")).filter((line) => line);
}

// Whether a text is one long text rather than a document a line.
export function looksLikeStream(text, blockSize) {
  const lines = text.slice(0, 200000).trimEnd().split("\n");
  const total = lines.reduce((sum, line) => sum + line.length, 0) || 1;
  const unread = lines.reduce((sum, line) => sum + Math.max(0, line.length - blockSize), 0);
  const blank = lines.filter((line) => !line.trim()).length / lines.length;
  return unread / total > 0.5 || blank > 0.02;
}

export class Trainer {
  constructor(core, text, options = {}) {
    this.options = { ...DEFAULTS, ...options };
    const { seed, data_mode, block_size, bos = "last" } = this.options;
    const documents = documentsOf(text, data_mode);
    if (!documents.length) throw new TextError("There is nothing to train on: paste a text.");
    this.tokenizer = new Tokenizer(charactersOf(documents.join("")), bos);
    this.core = core;
    this.documents = documents;
    const { tokenizer } = this;
    const offsets = new Int32Array(documents.length + 1);
    const length = documents.reduce((sum, document) => sum + [...document].length + 1, 1);
    const { n_layer, n_embd, n_head, activation } = this.options;
    this.model = new Model(core, { n_layer, n_embd, n_head, block_size, activation, vocab_size: tokenizer.vocab_size });
    this.tokens = core.array(Int32Array, length);
    const tokens = this.tokens.view;
    tokens[0] = tokenizer.bos;
    let end = 1;
    documents.forEach((document, d) => {
      for (const char of document) tokens[end++] = tokenizer.ids.get(char);
      tokens[end++] = tokenizer.bos;
      offsets[d + 1] = end - 1;
    });
    this.offsets = offsets; // document d lies in tokens[offsets[d] .. offsets[d + 1]], bos at both ends
    this.random = core.random(seed);
    this.order = data_mode === "stream" ? null : this.random.permutation(documents.length);
    this.model.initialise(this.random);
    this.m = core.array(core.real, this.model.count).set(new core.real(this.model.count));
    this.v = core.array(core.real, this.model.count).set(new core.real(this.model.count));
    this.step = 0;
    this.losses = [];
    this.key = (BigInt(seed) * 0x9e3779b97f4a7c15n) & MASK;
  }

  get isDone() {
    return this.step >= this.options.num_steps;
  }

  // Where the sequence of a step begins in the tokens, and how many of them are predicted.
  sequence(step) {
    const { block_size } = this.options;
    if (this.order) {
      const document = this.order[step % this.order.length];
      const start = this.offsets[document];
      return { start, length: Math.min(block_size, this.offsets[document + 1] - start) };
    }
    const length = Math.min(block_size, this.tokens.length - 1);
    const places = BigInt(this.tokens.length - length);
    return { start: Number(mix((BigInt(step) + this.key) & MASK) % places), length };
  }

  rate(step) {
    return this.options.learning_rate * (1 - step / this.options.num_steps);
  }

  // The next `count` steps in one call of the core; returns their losses.
  steps(count) {
    count = Math.min(count, this.options.num_steps - this.step);
    const { core, model, options } = this;
    const kinds = [[Float64Array, count], [Float64Array, count], [BigInt64Array, count], [Int32Array, count]];
    return core.with(kinds, (losses, rates, starts, lengths) => {
      const [to, begin, long] = [rates.view, starts.view, lengths.view];
      for (let i = 0; i < count; i++) {
        const { start, length } = this.sequence(this.step + i);
        begin[i] = BigInt(start);
        long[i] = length;
        to[i] = this.rate(this.step + i);
      }
      core.c.train_steps(losses.at, model.params.at, this.m.at, this.v.at, this.tokens.at, starts.at, lengths.at, count,
        rates.at, options.beta1, options.beta2, options.eps_adam, 0, this.step + 1, model.struct, model.workspace.at);
      model.changed();
      this.step += count;
      const found = losses.view.slice();
      for (const loss of found) this.losses.push(loss);
      return found;
    });
  }

  // The next step in the open: the document, its loss, and by tensor the norms of gradient and change.
  open() {
    const { core, model, options } = this;
    const { start, length } = this.sequence(this.step);
    const ids = Array.from(this.tokens.view.subarray(start, start + length + 1));
    const lr = this.rate(this.step);
    return core.with([[Float64Array, 1], [core.real, model.count], [Int32Array, ids.length]], (loss, grads, tokens) => {
      grads.view.fill(0);
      core.c.backward(loss.at, grads.at, model.params.at, tokens.set(ids).at, length, model.struct, model.workspace.at);
      const gradient = grads.view.slice();
      const before = model.params.view.slice();
      core.c.update(model.params.at, this.m.at, this.v.at, grads.at, lr, options.beta1, options.beta2, options.eps_adam, 0,
        this.step + 1, model.struct);
      const [after, m, v] = [model.params.view, this.m.view, this.v.view];
      const change = before.map((value, i) => after[i] - value);
      // the parameter with the largest gradient, as an example of Adam's step
      const { name, at } = steepest(model.table, gradient);
      const correct = (beta) => 1 - beta ** (this.step + 1);
      const example = {
        name, g: gradient[at], before: before[at], after: after[at],
        m_hat: m[at] / correct(options.beta1), v_hat: v[at] / correct(options.beta2),
      };
      const norms = { gradient: normsByTensor(model.table, gradient), change: normsByTensor(model.table, change) };
      model.changed();
      this.step += 1;
      this.losses.push(loss.view[0]);
      return { step: this.step, ids, loss: loss.view[0], lr, norms, example };
    });
  }

  samples(count, temperature = 0.5, random = this.random) {
    return Array.from({ length: count }, () =>
      this.tokenizer.decode(this.model.generate(random, this.tokenizer.bos, temperature)));
  }

  // `keepsModel`: the model is used on.
  free(keepsModel = false) {
    if (!keepsModel) this.model.free();
    this.random.free();
    for (const array of [this.tokens, this.m, this.v]) array.free();
  }
}

// [name, the norm of its part of a flat array] of each tensor.
export const normsByTensor = (table, flat) => table.map(({ name, offset, size }) =>
  [name, Math.sqrt(flat.subarray(offset, offset + size).reduce((sum, value) => sum + value * value, 0))]);

// The parameter with the largest gradient: its place in the flat array, and its name with row and column.
export function steepest(table, gradient) {
  let at = 0;
  for (let i = 1; i < gradient.length; i++) if (Math.abs(gradient[i]) > Math.abs(gradient[at])) at = i;
  const { name, columns, offset } = table.find(({ offset, size }) => at < offset + size);
  const place = at - offset;
  return { at, name: `${name}[${Math.floor(place / columns)}][${place % columns}]` };
}
