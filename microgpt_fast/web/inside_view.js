// See inside: attention, what each layer would predict, norms, embeddings, and what a replaced token changes.

import { amountBars, heat, heatMap, principalAxes, probabilityBars, scatter } from "./charts.js";
import { caption, code, el, field, percent, select, table } from "./dom.js";
import { ranking, softmax } from "./sampling.js";

const LONGEST_EXAMPLE = 24; // tokens
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(1)}`;

export function insideView(state) {
  const text = el("input", { type: "text", id: "inside-text", autocomplete: "off", spellcheck: "false" });
  const message = el("p", { class: "message", role: "alert" });
  const tokens = el("div", { class: "strip", role: "group", "aria-label": "Position" });
  const maps = el("div", { class: "maps" }), readout = el("p", { class: "small soft", "aria-live": "polite" }, " ");
  const strips = el("div", { class: "strips" });
  const lens = el("div", { class: "scroll" }), norms = el("div", {}), next = el("div", {});
  const which = select({
    wte: "wte: tokens, when they are read", lm_head: "lm_head: tokens, when they are predicted", wpe: "wpe: positions",
  }, "wte");
  const map = el("div", { class: "plane" });
  const replacement = select({}, ""), changes = el("div", { class: "scroll" });
  let ids = [], at = 0, seen = null;

  const label = (id) => (id === state.current.tokenizer.bos ? "bos" : state.current.tokenizer.label(id));

  function read() {
    const { model, tokenizer } = state.current;
    message.textContent = "";
    try {
      const all = [tokenizer.bos, ...tokenizer.encode(text.value)];
      ids = all.slice(0, model.config.block_size);
      if (all.length > ids.length) message.textContent = `The model reads ${ids.length} tokens: the first of them are shown.`;
    } catch (error) {
      message.textContent = error.message;
      return;
    }
    seen = model.inside(ids);
    at = Math.min(at || ids.length - 1, ids.length - 1);
    drawMaps();
    select_(ids.length - 1);
  }

  function drawMaps() {
    const { n_layer, n_head } = state.current.model.config;
    const { N } = seen;
    maps.replaceChildren();
    maps.style.setProperty("--heads", Math.min(n_head, 8));
    maps.style.setProperty("--few-heads", Math.min(n_head, 4));
    for (let layer = 0; layer < n_layer; layer++) {
      for (let head = 0; head < n_head; head++) {
        const values = seen.layers[layer].attention.subarray(head * N * N, (head + 1) * N * N);
        const name = `layer${layer} head ${head}`;
        const canvas = heatMap(values, N, {
          hover(row, column) {
            const at = (i) => `${label(ids[i])} (position ${i})`;
            readout.textContent = row === undefined ? " " : column > row ? `${name}: ${at(row)} cannot look at what comes later`
              : `${name}: ${at(row)} looks at ${at(column)} with ${percent(values[row * N + column])}`;
          },
          click: (row) => select_(row),
        });
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `Attention of ${name}; the table below has the chosen row's numbers`);
        maps.append(el("figure", { class: "map" }, canvas, el("figcaption", {}, `layer${layer} · ${head}`)));
      }
    }
  }

  function select_(position) {
    at = position;
    tokens.replaceChildren(...ids.map((id, i) => el("button", {
      type: "button", "aria-pressed": String(i === at), title: `position ${i}`, onclick: () => select_(i),
    }, label(id))));
    drawStrips();
    drawLens();
    drawNorms();
    drawMap();
    fillReplacement();
    const { config } = state.current.model;
    const weights = softmax(seen.logits.subarray(at * config.vocab_size, (at + 1) * config.vocab_size));
    next.replaceChildren(probabilityBars(weights, state.current.tokenizer, { most: 8, taken: ids[at + 1] }));
  }

  function drawStrips() {
    const { n_layer, n_head } = state.current.model.config;
    const { N } = seen;
    strips.replaceChildren();
    for (let layer = 0; layer < n_layer; layer++) {
      for (let head = 0; head < n_head; head++) {
        const row = seen.layers[layer].attention.subarray((head * N + at) * N, (head * N + at) * N + at + 1);
        const most = ranking(row).slice(0, 3).map((i) => `${label(ids[i])} ${percent(row[i])}`).join(", ");
        strips.append(el("span", { class: "num soft" }, `${layer}.${head}`),
          el("div", { class: "strip", role: "img", "aria-label": `layer${layer} head ${head}, mostly: ${most}` },
            Array.from(row, (share, i) =>
              el("span", { style: heat(share ** 0.8), title: `${label(ids[i])}: ${percent(share)}` }, label(ids[i])))));
      }
    }
  }

  const stageName = (stage) => {
    if (stage === 0) return "embeddings";
    return stage % 2 ? `layer${(stage - 1) / 2} attn` : `layer${stage / 2 - 1} mlp`;
  };
  const rowAt = (inside, stage) => {
    const { n_embd } = state.current.model.config;
    return inside.stages[stage].subarray(at * n_embd, (at + 1) * n_embd);
  };

  // What lm_head makes of the residual stream after each block.
  function drawLens() {
    const { model, tokenizer } = state.current;
    const { vocab_size: V, n_embd: C } = model.config;
    const head = model.tensor("lm_head");
    const rows = seen.stages.map((_, stage) => {
      const x = rowAt(seen, stage);
      const logits = Float64Array.from({ length: V }, (_, v) => {
        let sum = 0;
        for (let c = 0; c < C; c++) sum += head[v * C + c] * x[c];
        return sum;
      });
      const weights = softmax(logits);
      return el("tr", {}, el("th", { scope: "row" }, stageName(stage)), ranking(weights).slice(0, 5).map((id) =>
        el("td", {}, el("span", { class: "cell", style: heat(weights[id], "cool"), title: percent(weights[id]) }, tokenizer.label(id)),
          el("small", {}, percent(weights[id])))));
    });
    lens.replaceChildren(table(["after", "1st", "2nd", "3rd", "4th", "5th"], rows, { class: "lens" }));
  }

  function drawNorms() {
    norms.replaceChildren(amountBars(seen.stages.map((_, stage) => [stageName(stage), Math.hypot(...rowAt(seen, stage))])));
  }

  function drawMap() {
    const { model } = state.current;
    const tensor = model.tensor(which.value);
    const C = model.config.n_embd;
    const count = Math.min(tensor.length / C, 300);
    const rows = Array.from({ length: count }, (_, i) => tensor.subarray(i * C, (i + 1) * C));
    const isPosition = which.value === "wpe";
    map.replaceChildren(scatter(principalAxes(rows).map(([x, y], i) => ({
      x, y, label: isPosition ? String(i) : label(i), isChosen: i === (isPosition ? at : ids[at]),
    })), `The rows of ${which.value} on their two principal axes`));
  }

  function fillReplacement() {
    const { tokenizer } = state.current;
    const count = Math.min(tokenizer.vocab_size, 400);
    const kept = replacement.value;
    replacement.replaceChildren(el("option", { value: "" }, "choose a token"),
      ...Array.from({ length: count }, (_, id) => el("option", { value: id }, label(id))));
    replacement.value = Number(kept) < count ? kept : "";
    drawChanges();
  }

  // The largest changes of the last prediction when the chosen token is another one.
  function drawChanges() {
    if (replacement.value === "") {
      changes.replaceChildren(caption("The chosen position’s token can be replaced by another one: ",
        "what then changes at the end of the text?"));
      return;
    }
    const { model, tokenizer } = state.current;
    const V = model.config.vocab_size;
    const other = ids.map((id, i) => (i === at ? Number(replacement.value) : id));
    const last = (inside) => softmax(inside.logits.subarray((ids.length - 1) * V, ids.length * V));
    const before = last(seen), after = last(model.inside(other));
    const order = Array.from(before, (_, id) => id).sort((a, b) => Math.abs(after[b] - before[b]) - Math.abs(after[a] - before[a]));
    const numbers = (id) => [percent(before[id]), percent(after[id]), signed(100 * (after[id] - before[id]))];
    const row = (id) => el("tr", {}, el("th", { scope: "row" }, el("span", { class: "num" }, tokenizer.label(id))),
      numbers(id).map((text) => el("td", { class: "num" }, text)));
    changes.replaceChildren(
      caption("After ", code(other.map(label).join(" ")), " instead of ", code(ids.map(label).join(" ")), ":"),
      table(["next token", "before", "after", "change"], order.slice(0, 8).map(row), { isNumeric: true }));
  }

  let timer = 0;
  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(read, 150);
  });
  which.addEventListener("change", drawMap);
  replacement.addEventListener("change", drawChanges);

  const card = (title, note, ...content) => el("section", { class: "card" }, el("h2", {}, title), caption(note), content);
  const node = el("div", {},
    el("section", { class: "card" }, field("A text", text), message,
      caption("Choose a position: everything below is about it."), tokens),
    el("div", { class: "two even" },
      card("What comes next", "softmax(logits) after the chosen position; the token that does follow is marked.", next),
      card("What each block would predict",
        "The residual stream x after each block, multiplied by lm_head as if it were the last (the logit lens).", lens)),
    card("Attention",
      "attn_weights of each layer and head: a row for each position, dark where it looks. Point at a cell, or choose its row.",
      maps, readout, el("h3", {}, "The chosen row"),
      caption("layer.head, and how much of each token’s value it takes."), el("div", { class: "scroll" }, strips)),
    el("div", { class: "two even" },
      card("The length of x", "The norm of the residual stream at the chosen position, block after block.", norms),
      card("One token replaced", "At the chosen position.", field("by", replacement), changes)),
    card("A map of the embeddings", "Rows of a matrix on their two principal axes: neighbours are alike to the model.",
      field("Matrix", which), map));
  return {
    node,
    changed() {
      const { model, tokenizer } = state.current;
      const characters = [...(state.current.example ?? "")];
      const most = Math.min(model.config.block_size, LONGEST_EXAMPLE);
      while (tokenizer.encode(characters.join("")).length >= most && characters.length) characters.pop();
      text.value = characters.join("").replace(/\n/g, " ");
      try {
        tokenizer.encode(text.value);
      } catch {
        text.value = "";
      }
      at = 0;
      replacement.value = "";
      read();
    },
  };
}
