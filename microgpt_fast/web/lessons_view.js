// How it works: one document on its way through the model, in eight sections with the live numbers.

import { amountBars, heat, probabilityBars, vectorSquares } from "./charts.js";
import { Model } from "./core.js";
import { el, percent, short } from "./dom.js";
import { softmax } from "./sampling.js";

const SHOWN = 16; // numbers of a vector

export function lessonsView(state) {
  const node = el("div", {});

  function draw() {
    const { model, tokenizer, example } = state.current;
    const { config } = model;
    const text = [...(example ?? "")].slice(0, Math.min(config.block_size - 1, 12)).join("");
    const ids = [tokenizer.bos, ...tokenizer.encode(text), tokenizer.bos].slice(0, config.block_size + 1);
    const label = (id) => (id === tokenizer.bos ? "bos" : tokenizer.label(id));
    const N = ids.length - 1, C = config.n_embd, V = config.vocab_size;
    const seen = model.inside(ids.slice(0, N));
    const { loss } = model.forward(ids);
    const at = Math.min(2, N - 1);
    const row = (name, i) => model.tensor(name).subarray(i * C, i * C + Math.min(C, SHOWN));
    const x = (stage) => seen.stages[stage].subarray(at * C, at * C + Math.min(C, SHOWN));
    const attention = seen.layers[0].attention.subarray(at * N, at * N + at + 1);
    const hidden = seen.layers[0].hidden.subarray(at * 4 * C, (at + 1) * 4 * C);
    const alive = hidden.reduce((count, h) => count + (h !== 0), 0);
    const weights = softmax(seen.logits.subarray(at * V, (at + 1) * V));
    const open = oneStep(model, ids);
    const largest = [...open.tensors].sort((a, b) => b.gradient - a.gradient)[0];
    const word = () => el("code", {}, text || "(an empty text)");
    const it = () => el("code", {}, label(ids[at]));

    const lessons = [
      ["Tokens", [el("p", {}, "A model reads numbers. Each character of ", word(), ` has one: its place among the ${V - 1} characters of the training text, in order. One more, bos, marks where a document begins and ends.`)],
        "where it gathers the unique characters and defines BOS.",
        [el("div", { class: "strip" }, ids.map((id) => el("span", { title: `token ${id}` }, label(id), el("small", {}, id))))]],
      ["Embeddings", [el("p", {}, `A token becomes ${C} numbers: its row of `, el("code", {}, "wte"), ", plus the row of ", el("code", {}, "wpe"), " for its position, brought to a common length by rmsnorm. Here is ", it(), ` at position ${at}. Orange is above zero, blue below.`)],
        "the first lines of the function gpt, with token_id and pos_id.",
        [el("p", { class: "small soft" }, `wte[${ids[at]}]`), vectorSquares(row("wte", ids[at])), el("p", { class: "small soft" }, `wpe[${at}]`), vectorSquares(row("wpe", at)),
          el("p", { class: "small soft" }, "x, after rmsnorm"), vectorSquares(x(0))]],
      ["Attention", [el("p", {}, "Now ", it(), " looks back. Its query is compared with the key of every token up to itself; softmax makes shares of the results, and it takes that much of each token’s value. ",
        `Head 0 of layer0 distributes its attention like this; n_layer is ${config.n_layer}, n_head ${config.n_head}.`)],
        "where q, k and v are made, attn_logits become attn_weights, and attn_wo adds the outcome to x.",
        [el("div", { class: "strip" }, Array.from(attention, (p, i) => el("span", { style: heat(p ** 0.8) }, label(ids[i]), el("small", {}, percent(p))))),
          el("p", { class: "small soft" }, "x, with what attention added"), vectorSquares(x(1))]],
      ["MLP", [el("p", {}, "Each position then thinks for itself: ", el("code", {}, "mlp_fc1"), ` makes ${4 * C} numbers of it, ${config.activation} `,
        config.activation.startsWith("relu") ? `leaves ${alive} of them above zero, ` : "bends them, ", "and ", el("code", {}, "mlp_fc2"), " turns these into a change of x.")],
        "the block with mlp_fc1 and mlp_fc2, and the residual added after it.",
        [el("p", { class: "small soft" }, `the first of the ${4 * C} hidden numbers`), vectorSquares(hidden.subarray(0, 2 * SHOWN)), el("p", { class: "small soft" }, "x, with what the MLP added"), vectorSquares(x(2))]],
      ["Logits", [el("p", {}, "At the end ", el("code", {}, "lm_head"), ` compares x with a row for each of the ${V} tokens: a logit each. Softmax makes probabilities of them. This is what the model expects after `, it(), ".")],
        "the last line of gpt, and softmax.",
        [probabilityBars(weights, tokenizer, { most: 6, taken: ids[at + 1] })]],
      ["Loss", [el("p", {}, `What does follow is `, el("code", {}, label(ids[at + 1])), `, to which it gave ${percent(weights[ids[at + 1]])}: a loss of −ln p = ${(-Math.log(weights[ids[at + 1]])).toFixed(2)}. `,
        `The mean over the ${N} predictions of this document is ${loss.toFixed(3)}; knowing nothing would cost ln ${V} = ${Math.log(V).toFixed(2)}.`)],
        "where losses are collected for each position and averaged.",
        [amountBars(Array.from({ length: Math.min(N, 12) }, (_, i) => {
          const p = softmax(seen.logits.subarray(i * V, (i + 1) * V))[ids[i + 1]];
          return [`${label(ids[i])} → ${label(ids[i + 1])}`, -Math.log(p), (-Math.log(p)).toFixed(2)];
        }))]],
      ["Gradients", [el("p", {}, "Which way should each number move so that the loss falls? The chain rule answers for all ", model.count.toLocaleString("en"), " parameters at once, from the loss back to the embeddings. For this document the gradient is largest in ",
        el("code", {}, largest.name), ".")],
        "the class Value with its backward, and the call loss.backward().",
        [amountBars(open.tensors.map(({ name, gradient }) => [name, gradient]).slice(0, 15))]],
      ["Adam", [el("p", {}, "Each parameter keeps two running averages, of its gradient (m) and of its square (v), and moves by the learning rate times m̂ / (√v̂ + ε): about equally far, whatever the size of its gradient. ",
        `After one such step with this document its loss is ${open.after.toFixed(3)} instead of ${loss.toFixed(3)}.`)],
        "the lines after the backward pass, with m, v, m_hat and v_hat.",
        [el("p", { class: "num" }, `${open.example.name}: g = ${short(open.example.g)}`), el("p", { class: "num" }, `m̂ = ${short(open.example.g)}, √v̂ = ${short(Math.abs(open.example.g))}`),
          el("p", { class: "num" }, `${open.example.before.toFixed(5)} → ${open.example.after.toFixed(5)}`), el("p", { class: "small soft" }, "On a copy of the model, at learning rate 0.01; the Train view does this a thousand times.")]],
    ];
    node.replaceChildren(
      el("p", { class: "soft" }, "One document, ", word(), ", on its way through this model. Every number is computed here and now; train a model and look again."),
      ...lessons.map(([title, story, where, numbers], i) => el("section", { class: "lesson" },
        el("div", {}, el("span", { class: "step" }, `${i + 1} of ${lessons.length}`), el("h2", {}, title), story, el("p", { class: "where" }, `In microgpt.py: ${where}`)),
        el("div", {}, numbers))));
  }

  return { node, changed: draw };
}

// Gradient and one step of Adam with one document, on a copy of the model.
function oneStep(model, ids) {
  const { core } = model;
  const copy = new Model(core, model.config, model.params.view.slice());
  const lr = 0.01;
  try {
    const kinds = [[Float64Array, 1], [core.real, copy.count], [core.real, copy.count], [core.real, copy.count], [Int32Array, ids.length]];
    return core.with(kinds, (loss, grads, m, v, tokens) => {
      for (const array of [grads, m, v]) array.view.fill(0);
      core.c.backward(loss.at, grads.at, copy.params.at, tokens.set(ids).at, ids.length - 1, copy.struct, copy.workspace.at);
      const gradient = grads.view.slice();
      core.c.update(copy.params.at, m.at, v.at, grads.at, lr, 0.85, 0.99, 1e-8, 0, 1, copy.struct);
      let at = 0;
      for (let i = 1; i < gradient.length; i++) if (Math.abs(gradient[i]) > Math.abs(gradient[at])) at = i;
      const owner = copy.table.find(({ offset, size }) => at < offset + size);
      const place = at - owner.offset;
      const tensors = copy.table.map(({ name, offset, size }) => ({
        name, gradient: Math.sqrt(gradient.subarray(offset, offset + size).reduce((sum, g) => sum + g * g, 0)),
      }));
      const example = { name: `${owner.name}[${Math.floor(place / owner.columns)}][${place % owner.columns}]`, g: gradient[at], before: model.params.view[at], after: copy.params.view[at] };
      return { tensors, example, after: copy.forward(ids).loss };
    });
  } finally {
    copy.free();
  }
}
