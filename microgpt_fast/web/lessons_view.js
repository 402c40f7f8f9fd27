// How it works: one document on its way through the model, in eight sections with the live numbers.

import { amountBars, heat, probabilityBars, vectorSquares } from "./charts.js";
import { Model } from "./core.js";
import { caption, code, el, grouped, p, percent, short } from "./dom.js";
import { softmax } from "./sampling.js";
import { normsByTensor, steepest } from "./training.js";

const SHOWN = 16; // numbers of a vector
const LONGEST = 12; // characters of the document
const RATE = 0.01;

const figure = (text) => el("p", { class: "num" }, text);

// What the sections tell about: a document, and what the model makes of it.
function followed({ model, tokenizer, example }) {
  const { block_size, n_embd: C, vocab_size: V } = model.config;
  const text = [...(example ?? "")].slice(0, Math.min(block_size - 1, LONGEST)).join("");
  const ids = [tokenizer.bos, ...tokenizer.encode(text), tokenizer.bos].slice(0, block_size + 1);
  const N = ids.length - 1;
  const at = Math.min(2, N - 1); // the position that is looked at
  const seen = model.inside(ids.slice(0, N));
  const probabilities = (i) => softmax(seen.logits.subarray(i * V, (i + 1) * V));
  const few = (array, i) => array.slice(i * C, i * C + Math.min(C, SHOWN));
  return {
    model, tokenizer, text, ids, N, at, seen, probabilities,
    config: model.config,
    label: (id) => (id === tokenizer.bos ? "bos" : tokenizer.label(id)),
    weights: (name, i) => few(model.tensor(name), i),
    x: (stage) => few(seen.stages[stage], at),
    loss: model.forward(ids).loss,
    step: oneStep(model, ids),
  };
}

// Each section: its title, the story, where to find it in microgpt.py, and the numbers.
const LESSONS = [
  ["Tokens", "where it gathers the unique characters and defines BOS.",
    ({ text, config }) => p("A model reads numbers. Each character of ", code(text || "a text"), " has one: its place among the ",
      `${config.vocab_size - 1} characters of the training text, in order. One more, bos, marks where a document begins and ends.`),
    ({ ids, label }) => tokenStrip(ids.map((id) => [label(id), id]))],

  ["Embeddings", "the first lines of the function gpt, with token_id and pos_id.",
    ({ ids, at, label, config }) => p(`A token becomes ${config.n_embd} numbers: its row of `, code("wte"), ", plus the row of ",
      code("wpe"), " for its position, brought to a common length by rmsnorm. Here is ", code(label(ids[at])),
      ` at position ${at}. Orange is above zero, blue below.`),
    ({ ids, at, weights, x }) => [
      caption(`wte[${ids[at]}]`), vectorSquares(weights("wte", ids[at])),
      caption(`wpe[${at}]`), vectorSquares(weights("wpe", at)),
      caption("x, after rmsnorm"), vectorSquares(x(0))]],

  ["Attention", "where q, k and v are made, attn_logits become attn_weights, and attn_wo adds the outcome to x.",
    ({ ids, at, label, config }) => p("Now ", code(label(ids[at])), " looks back. Its query is compared with the key of every token ",
      "up to itself; softmax makes shares of the results, and it takes that much of each token’s value. ",
      `Head 0 of layer0 distributes its attention like this; n_layer is ${config.n_layer}, n_head ${config.n_head}.`),
    ({ ids, at, N, seen, label, x }) => {
      const shares = seen.layers[0].attention.subarray(at * N, at * N + at + 1);
      return [tokenStrip(Array.from(shares, (share, i) => [label(ids[i]), percent(share), share])),
        caption("x, with what attention added"), vectorSquares(x(1))];
    }],

  ["MLP", "the block with mlp_fc1 and mlp_fc2, and the residual added after it.",
    ({ seen, at, config }) => {
      const F = 4 * config.n_embd;
      const alive = seen.layers[0].hidden.subarray(at * F, (at + 1) * F).reduce((count, h) => count + (h !== 0), 0);
      const bends = config.activation.startsWith("relu") ? `leaves ${alive} of them above zero` : "bends them";
      return p("Each position then thinks for itself: ", code("mlp_fc1"), ` makes ${F} numbers of it, `,
        `${config.activation} ${bends}, and `, code("mlp_fc2"), " turns these into a change of x.");
    },
    ({ seen, at, config, x }) => {
      const F = 4 * config.n_embd;
      return [caption(`the first of the ${F} hidden numbers`),
        vectorSquares(seen.layers[0].hidden.slice(at * F, at * F + Math.min(F, 2 * SHOWN))),
        caption("x, with what the MLP added"), vectorSquares(x(2))];
    }],

  ["Logits", "the last line of gpt, and softmax.",
    ({ ids, at, label, config }) => p("At the end ", code("lm_head"), " compares x with a row for each of the ",
      `${config.vocab_size} tokens: a logit each. Softmax makes probabilities of them. This is what the model expects after `,
      code(label(ids[at])), "."),
    ({ ids, at, tokenizer, probabilities }) => probabilityBars(probabilities(at), tokenizer, { most: 6, taken: ids[at + 1] })],

  ["Loss", "where losses are collected for each position and averaged.",
    ({ ids, at, N, label, loss, config, probabilities }) => {
      const share = probabilities(at)[ids[at + 1]];
      return p("What does follow is ", code(label(ids[at + 1])), `, to which it gave ${percent(share)}: a loss of −ln p = `,
        `${(-Math.log(share)).toFixed(2)}. The mean over the ${N} predictions of this document is ${loss.toFixed(3)}; `,
        `knowing nothing would cost ln ${config.vocab_size} = ${Math.log(config.vocab_size).toFixed(2)}.`);
    },
    ({ ids, N, label, probabilities }) => amountBars(Array.from({ length: N }, (_, i) => {
      const nats = -Math.log(probabilities(i)[ids[i + 1]]);
      return [`${label(ids[i])} → ${label(ids[i + 1])}`, nats, nats.toFixed(2)];
    }))],

  ["Gradients", "the class Value with its backward, and the call loss.backward().",
    ({ model, step }) => p("Which way should each number move so that the loss falls? The chain rule answers for all ",
      `${grouped(model.count)} parameters at once, from the loss back to the embeddings. `,
      "For this document the gradient is largest in ", code(step.norms.reduce((a, b) => (b[1] > a[1] ? b : a))[0]), "."),
    ({ step }) => amountBars(step.norms.slice(0, 15))],

  ["Adam", "the lines after the backward pass, with m, v, m_hat and v_hat.",
    ({ step, loss }) => p("Each parameter keeps two running averages, of its gradient (m) and of its square (v), and moves by the ",
      "learning rate times m̂ / (√v̂ + ε): about equally far, whatever the size of its gradient. ",
      `After one such step with this document its loss is ${step.loss.toFixed(3)} instead of ${loss.toFixed(3)}.`),
    ({ step: { name, g, before, after } }) => [
      figure(`${name}: g = ${short(g)}`), figure(`m̂ = ${short(g)}, √v̂ = ${short(Math.abs(g))}`),
      figure(`${before.toFixed(5)} → ${after.toFixed(5)}`),
      caption(`On a copy of the model, at learning rate ${RATE}; the Train view does this a thousand times.`)]],
];

// Tokens with a note each, coloured by a share where there is one.
const tokenStrip = (items) => el("div", { class: "strip" }, items.map(([label, note, share]) =>
  el("span", { style: share === undefined ? {} : heat(share ** 0.8) }, label, el("small", {}, note))));

// Gradient and one step of Adam with one document, on a copy of the model.
function oneStep(model, ids) {
  const { core } = model;
  const copy = new Model(core, model.config, model.params.view.slice());
  const { count, table, params, struct, workspace } = copy;
  const kinds = [[Float64Array, 1], [core.real, count], [core.real, count], [core.real, count], [Int32Array, ids.length]];
  try {
    return core.with(kinds, (loss, grads, m, v, tokens) => {
      for (const array of [grads, m, v]) array.view.fill(0);
      core.c.backward(loss.at, grads.at, params.at, tokens.set(ids).at, ids.length - 1, struct, workspace.at);
      const gradient = grads.view.slice();
      const { name, at } = steepest(table, gradient);
      const before = params.view[at];
      core.c.update(params.at, m.at, v.at, grads.at, RATE, 0.85, 0.99, 1e-8, 0, 1, struct);
      const after = params.view[at];
      return { norms: normsByTensor(table, gradient), name, g: gradient[at], before, after, loss: copy.forward(ids).loss };
    });
  } finally {
    copy.free();
  }
}

export function lessonsView(state) {
  const node = el("div", {});

  function draw() {
    const what = followed(state.current);
    node.replaceChildren(
      el("p", { class: "soft" }, "One document, ", code(what.text || "(an empty text)"), ", on its way through this model. ",
        "Every number is computed here and now; train a model and look again."),
      ...LESSONS.map(([title, where, story, numbers], i) => el("section", { class: "lesson" },
        el("div", {}, el("span", { class: "step" }, `${i + 1} of ${LESSONS.length}`), el("h2", {}, title), story(what),
          el("p", { class: "where" }, `In microgpt.py: ${where}`)),
        el("div", {}, numbers(what)))));
  }

  return { node, changed: draw };
}
