// The C core: WebAssembly memory, models, and the random stream. Nothing here knows the page.

export const ACTIVATIONS = ["relu", "relu2", "gelu", "silu"];
const LIMIT = 2 ** 30; // bytes that a page may take at once

export class CoreError extends Error {}

// The parameters of a model in the order of the flat buffer: name, rows, columns, offset. As parameters.py has them.
export function parametersOf(config) {
  const { n_layer, n_embd: C, block_size: T, vocab_size: V } = config;
  const table = [["wte", V, C], ["wpe", T, C], ["lm_head", V, C]];
  for (let l = 0; l < n_layer; l++) {
    for (const name of ["attn_wq", "attn_wk", "attn_wv", "attn_wo"]) table.push([`layer${l}.${name}`, C, C]);
    table.push([`layer${l}.mlp_fc1`, 4 * C, C], [`layer${l}.mlp_fc2`, C, 4 * C]);
  }
  let offset = 0;
  return table.map(([name, rows, columns]) => {
    const parameter = { name, rows, columns, offset, size: rows * columns };
    offset += parameter.size;
    return parameter;
  });
}

export const countOf = ({ n_layer: L, n_embd: C, block_size: T, vocab_size: V }) => (2 * V + T + 12 * L * C) * C;

// What is wrong with a configuration, in one sentence; null where a page can train it.
export function refusal(config) {
  for (const name of ["n_layer", "n_embd", "n_head", "block_size", "vocab_size"]) {
    if (!Number.isSafeInteger(config[name]) || config[name] < 1) return `${name} must be a whole number of at least 1.`;
  }
  if (!ACTIVATIONS.includes(config.activation)) return `This page cannot compute the activation ${config.activation}.`;
  const { n_layer: L, n_embd: C, n_head: H, block_size: T, vocab_size: V } = config;
  if (C % H) return `n_embd must be a multiple of n_head: ${C} cannot be cut into ${H} equal heads.`;
  const rows = T * (20 * L * C + 8 * C + 2 * V);
  const bytes = 4 * (6 * countOf(config) + rows + L * H * T * T);
  if (!(bytes < LIMIT / 2)) {
    return `A model of ${countOf(config).toLocaleString("en")} parameters is too large for a page: ` +
      "choose a smaller n_embd, n_layer or block_size.";
  }
  return null;
}

export class Core {
  // module: the bytes of a core for this kind of numbers, Float32Array or Float64Array
  static async load(module, real = Float32Array) {
    const { instance } = await WebAssembly.instantiate(module, {});
    instance.exports._initialize?.();
    return new Core(instance.exports, real);
  }

  constructor(c, real) {
    this.c = c;
    this.real = real;
  }

  // An array in the core's memory; `view` is taken anew after every allocation, for memory may have moved.
  array(kind, length) {
    const bytes = length * kind.BYTES_PER_ELEMENT;
    const at = bytes < LIMIT ? this.c.malloc(Math.max(16, bytes)) : 0;
    if (!at) throw new CoreError("There is not enough memory for this.");
    const core = this;
    return {
      at,
      length,
      get view() {
        return new kind(core.c.memory.buffer, at >>> 0, length);
      },
      set(values) {
        this.view.set(values);
        return this;
      },
      free() {
        core.c.free(at);
      },
    };
  }

  // The result of a function of temporary arrays, which are freed afterwards.
  with(arrays, use) {
    const made = [];
    try {
      for (const [kind, length] of arrays) made.push(this.array(kind, length));
      return use(...made);
    } finally {
      for (const array of made) array.free();
    }
  }

  random(seed) {
    return new Random(this, seed);
  }
}

// The stream of Python's random module for an integer seed.
export class Random {
  constructor(core, seed) {
    this.core = core;
    let rest = BigInt(seed);
    if (rest < 0n) rest = -rest;
    const digits = [];
    do {
      digits.push(Number(rest & 0xffffffffn));
      rest >>= 32n;
    } while (rest);
    this.at = core.with([[Uint32Array, digits.length]], (array) => core.c.random_new(array.set(digits).at, digits.length));
    if (!this.at) throw new CoreError("There is not enough memory for this.");
  }

  uniform() {
    return this.core.c.random_uniform(this.at);
  }

  normal(count, std) {
    return this.core.with([[Float64Array, count]], (out) => {
      this.core.c.random_normal(this.at, out.at, count, std);
      return out.view.slice();
    });
  }

  permutation(count) {
    return this.core.with([[BigInt64Array, count]], (out) => {
      this.core.c.random_permutation(this.at, out.at, count);
      return Int32Array.from(out.view, Number);
    });
  }

  choice(weights) {
    return this.core.with([[Float64Array, weights.length]], (array) =>
      this.core.c.random_choice(this.at, array.set(weights).at, weights.length));
  }

  free() {
    this.core.c.free(this.at);
  }
}

// A model: its configuration and parameters, and what the core computes with them.
export class Model {
  constructor(core, config, weights = null) {
    const wrong = refusal(config);
    if (wrong) throw new CoreError(wrong);
    this.core = core;
    this.config = config;
    this.count = countOf(config);
    this.table = parametersOf(config);
    this.struct = core.c.model(config.n_layer, config.n_embd, config.n_head, config.block_size, config.vocab_size,
      ACTIVATIONS.indexOf(config.activation));
    if (!this.struct) throw new CoreError("There is not enough memory for this model.");
    this.params = core.array(core.real, this.count);
    if (weights) this.params.set(weights);
    this.workspace = core.array(Uint8Array, core.c.workspace_size(this.struct, config.block_size) >>> 0);
    this.decoder = core.array(Uint8Array, core.c.decoder_size(this.struct) >>> 0);
    this.logits = core.array(core.real, config.vocab_size);
    this.changed();
  }

  // Must be called when the parameters have changed, before the next `decode`.
  changed() {
    this.isPrepared = false;
  }

  initialise(random, std = 0.08) {
    for (const { offset, size } of this.table) {
      const draws = random.normal(size, std); // before the view is taken
      this.params.view.set(draws, offset);
    }
    this.changed();
  }

  tensor(name) {
    const { offset, size } = this.table.find((parameter) => parameter.name === name);
    return this.params.view.subarray(offset, offset + size);
  }

  // The logits that follow `token`; positions must come in order from 0.
  decode(token, position) {
    if (!this.isPrepared) this.core.c.decoder_init(this.decoder.at, this.params.at, this.struct);
    this.isPrepared = true;
    this.core.c.decode(this.logits.at, token, position, this.params.at, this.struct, this.decoder.at);
    return this.logits.view.slice(); // a view would not survive the next allocation
  }

  // One document as the original samples it: token ids without bos.
  generate(random, bos, temperature) {
    if (!this.isPrepared) this.core.c.decoder_init(this.decoder.at, this.params.at, this.struct);
    this.isPrepared = true;
    return this.core.with([[Int32Array, this.config.block_size]], (sample) => {
      const length = this.core.c.generate(sample.at, random.at, this.params.at, bos, temperature, this.struct,
        this.decoder.at);
      return Array.from(sample.view.subarray(0, length));
    });
  }

  // Reads `ids`, of which all but the first are targets too: the mean loss, and logits [N, V].
  forward(ids) {
    const N = ids.length - 1;
    const { core, config } = this;
    return core.with([[Float64Array, 1], [core.real, N * config.vocab_size], [Int32Array, ids.length]],
      (loss, logits, tokens) => {
        const bad = core.c.forward(loss.at, logits.at, this.params.at, tokens.set(ids).at, N, this.struct,
          this.workspace.at);
        if (bad >= 0) throw new CoreError("A token or the length of the text is out of range.");
        return { loss: loss.view[0], logits: logits.view.slice() };
      });
  }

  // What happens inside while `ids` [N] are read: see csrc/wasm/core.c.
  inside(ids) {
    const { logits } = this.forward([...ids, ids[0]]);
    const { core, config, struct, workspace } = this;
    const { n_layer: L, n_head: H, n_embd: C } = config;
    const N = ids.length;
    const taken = (length, fill) => core.with([[core.real, length]], (out) => {
      fill(out.at);
      return out.view.slice();
    });
    const stages = Array.from({ length: 2 * L + 1 }, (_, stage) =>
      taken(N * C, (at) => core.c.residual(at, stage, N, struct, workspace.at)));
    const layers = Array.from({ length: L }, (_, layer) => ({
      attention: taken(H * N * N, (at) => core.c.attention(at, layer, N, struct, workspace.at)),
      hidden: taken(N * 4 * C, (at) => core.c.hidden(at, layer, N, struct, workspace.at)),
    }));
    return { N, logits, stages, layers };
  }

  free() {
    this.core.c.free(this.struct);
    for (const array of [this.params, this.workspace, this.decoder, this.logits]) array.free();
  }
}
