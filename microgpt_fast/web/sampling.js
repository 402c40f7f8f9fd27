// Text from a model, token by token, as sampling/sample.py draws it.

// softmax(logits / temperature); at temperature 0 the first of the largest has all the weight.
export function softmax(logits, temperature = 1) {
  let largest = -Infinity;
  for (const logit of logits) largest = Math.max(largest, logit);
  if (!Number.isFinite(largest)) throw new Error("The model's logits are not finite: did its training diverge?");
  const weights = new Float64Array(logits.length);
  if (temperature === 0) {
    weights[logits.indexOf(largest)] = 1;
    return weights;
  }
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += weights[i] = Math.exp((logits[i] - largest) / temperature);
  for (let i = 0; i < logits.length; i++) weights[i] /= total;
  return weights;
}

// Ids from the likeliest to the least likely.
export const ranking = (weights) =>
  Array.from(weights, (_, id) => id).sort((a, b) => weights[b] - weights[a] || a - b);

// Weights of which all but the `topK` largest, and those beyond the probability `topP` together, are 0.
export function limited(weights, topK = 0, topP = 1) {
  if (!topK && topP >= 1) return weights;
  const result = new Float64Array(weights.length);
  let total = 0;
  const order = ranking(weights).slice(0, topK || weights.length);
  const all = order.reduce((sum, id) => sum + weights[id], 0);
  for (const id of order) {
    if (topP < 1 && total / all >= topP) break;
    result[id] = weights[id];
    total += weights[id];
  }
  return result;
}

// A model that reads token after token; past block_size it sees the last half of what it has read, and what follows.
export class Reader {
  constructor(model) {
    this.model = model;
    this.window = [];
  }

  // The logits that follow one more token.
  read(id) {
    const { block_size } = this.model.config;
    if (this.window.length === block_size) {
      const kept = this.window.slice(block_size - (block_size >> 1));
      this.window = [...kept, id].slice(-block_size);
      let logits;
      this.window.forEach((token, position) => (logits = this.model.decode(token, position)));
      return logits;
    }
    this.window.push(id);
    return this.model.decode(id, this.window.length - 1);
  }

  // The logits that follow a beginning, of which the last block_size tokens count.
  begin(ids) {
    this.window = ids.slice(-this.model.config.block_size);
    let logits;
    this.window.forEach((token, position) => (logits = this.model.decode(token, position)));
    return logits;
  }
}

// The tokens that a text begins with: bos and the prompt; in one long text the prompt alone, or a new line.
export function beginning(tokenizer, prompt, isStream) {
  let ids = tokenizer.encode(prompt);
  if (isStream && !ids.length && (tokenizer.chars ?? "\n").includes("\n")) ids = tokenizer.encode("\n");
  return isStream && ids.length ? ids : [tokenizer.bos, ...ids];
}

// Yields { id, weights }: each token drawn, the last one bos where the text ends, and the probabilities it was drawn with.
export function* write(model, tokenizer, random, { prompt = "", isStream = false, temperature = 1, topK, topP, count }) {
  const reader = new Reader(model);
  let logits = reader.begin(beginning(tokenizer, prompt, isStream));
  for (let i = 0; i < count; i++) {
    const weights = limited(softmax(logits, temperature), topK, topP);
    const id = random.choice(weights);
    yield { id, weights };
    if (id === tokenizer.bos) return;
    logits = reader.read(id);
  }
}

// How surprised a model is by each token after the first: [{ id, bits, weights }], predicted in windows that overlap by half.
export function surprises(model, ids) {
  const { block_size: T, vocab_size: V } = model.config;
  const result = [];
  const stride = Math.max(1, T >> 1);
  for (let start = 0; result.length < ids.length - 1; start += stride) {
    const part = ids.slice(start, start + T + 1);
    const { logits } = model.forward(part);
    for (let i = result.length - start; i < part.length - 1; i++) {
      const weights = softmax(logits.subarray(i * V, (i + 1) * V));
      result.push({ id: part[i + 1], bits: -Math.log2(Math.max(weights[part[i + 1]], 1e-300)), weights });
    }
  }
  return result;
}
