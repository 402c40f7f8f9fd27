// Does this browser compute what was recorded when the page was made?

import { Model } from "./core.js";

const STEPS = 20;
const LEARNING_RATE = 1e-3;
const [BETA1, BETA2, EPS] = [0.85, 0.99, 1e-8];

// The likeliest token after bos, after these two, and so on.
export function greedy(model, bos) {
  const ids = [];
  let token = bos;
  for (let position = 0; position < model.config.block_size; position++) {
    const logits = model.decode(token, position);
    token = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    ids.push(token);
    if (token === bos) break;
  }
  return ids;
}

// The losses of a few steps, each on the greedy text; the model is not changed.
export function lossesOfTraining(model, bos) {
  const { core } = model;
  const ids = [bos, ...greedy(model, bos)].slice(0, model.config.block_size + 1);
  const copy = new Model(core, model.config, model.params.view.slice());
  try {
    const kinds = [[Float64Array, STEPS], [Float64Array, STEPS], [BigInt64Array, STEPS], [Int32Array, STEPS],
      [Int32Array, ids.length], [core.real, copy.count], [core.real, copy.count]];
    return core.with(kinds, (losses, rates, starts, lengths, tokens, m, v) => {
      rates.view.fill(LEARNING_RATE);
      starts.view.fill(0n);
      lengths.view.fill(ids.length - 1);
      m.view.fill(0);
      v.view.fill(0);
      core.c.train_steps(losses.at, copy.params.at, m.at, v.at, tokens.set(ids).at, starts.at, lengths.at, STEPS, rates.at,
        BETA1, BETA2, EPS, 0, 1, copy.struct, copy.workspace.at);
      return Array.from(losses.view);
    });
  } finally {
    copy.free();
  }
}

// What a page is compared with later.
export function recorded(model, bos) {
  const { logits } = model.forward([bos, bos]);
  return { logits: Array.from(logits), greedy: greedy(model, bos), losses: lossesOfTraining(model, bos), tolerance: 1e-5 };
}

// { ok, text } of a comparison with what was recorded.
export function selfTest(model, bos, expected) {
  const found = recorded(model, bos);
  const scale = expected.logits.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  const worst = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]) || (value === b[i] ? 0 : Infinity)), 0);
  const logits = worst(expected.logits, found.logits) / scale;
  const losses = worst(expected.losses, found.losses);
  const isSame = expected.greedy.join() === found.greedy.join();
  const ok = logits <= expected.tolerance && losses <= expected.tolerance * scale && isSame;
  const text = ok
    ? "Self-test passed: the same numbers as when this page was made"
    : `Self-test failed: logits differ by ${logits.toExponential(1)}, losses by ${losses.toExponential(1)}, ` +
      `the text is ${isSame ? "the same" : "another one"}`;
  return { ok, text, logits, losses };
}
