// Write: text token by token, with the probabilities each was drawn from; and how surprising a given text is.

import { heat, probabilityBars } from "./charts.js";
import { el, field, number, percent, repeatedly, slider } from "./dom.js";
import { Reader, beginning, limited, softmax, surprises } from "./sampling.js";
import { visible } from "./tokenizer.js";

const PER_FRAME = 4; // tokens, so that a reader sees the text come; more of a long text
const FRAMES = 250; // for the longest text, if the model is fast enough
const BUDGET = 12; // milliseconds between two pictures
const MOST_SURPRISE = 4000; // characters that are coloured

export function writeView(state) {
  const prompt = el("textarea", {
    class: "line", rows: 1, autocomplete: "off", spellcheck: "false", id: "prompt", placeholder: "empty: from the beginning",
  });
  const temperature = slider(0, 2, 0.05, 0.5);
  const topK = number(0, 0), topP = slider(0.05, 1, 0.05, 1), seed = number(42, 0), count = number(10), length = number(16);
  const message = el("p", { class: "message", role: "alert" });
  const go = el("button", { class: "primary", id: "write", type: "submit" }, "Write");
  const stop = el("button", { type: "button", disabled: true, onclick: () => end() }, "Stop");
  const list = el("ol", { class: "written", id: "written", tabindex: "0", "aria-label": "The text. Arrow keys choose a character." });
  const side = el("div", { "aria-live": "polite" });
  let samples = []; // of { steps: [{ id, weights }], ids, node }
  let chosen = null; // [sample, index]
  let halt = () => {};
  let random = null;

  const options = () => ({
    temperature: Number(temperature.value),
    topK: Math.max(0, Math.floor(Number(topK.value)) || 0),
    topP: Number(topP.value),
    length: Math.min(20000, Math.max(0, Math.floor(Number(length.value)) || 0)),
  });

  function end() {
    halt();
    stop.disabled = true;
  }

  // Goes on with the samples from `first` on until all are complete.
  function run(first) {
    const { model, tokenizer } = state.current;
    const { temperature, topK, topP, length } = options();
    end();
    stop.disabled = false;
    const perFrame = Math.max(PER_FRAME, Math.ceil(length / FRAMES));
    let at = first, reader = null, logits = null;
    halt = repeatedly(() => {
      const began = performance.now();
      for (let i = 0; i < perFrame && performance.now() - began < BUDGET; i++) {
        const sample = samples[at];
        if (!sample) {
          end();
          if (!chosen) choose(0, 0);
          return false;
        }
        if (!reader) {
          reader = new Reader(model);
          logits = reader.begin([...sample.ids, ...sample.steps.map((step) => step.id)]);
        }
        if (sample.steps.length >= length || sample.steps.at(-1)?.id === tokenizer.bos) {
          sample.isWhole = true;
          show(sample);
          at++;
          reader = null;
          while (samples[at]?.isWhole) at++;
          continue;
        }
        try {
          const id = random.choice(limited(softmax(logits, temperature), topK, topP));
          sample.steps.push({ id, weights: softmax(logits, temperature || 1) }); // what is shown, likeliest or not
          if (id !== tokenizer.bos) logits = reader.read(id);
        } catch (error) {
          message.textContent = error.message;
          end();
          return false;
        }
      }
      if (samples[at]) show(samples[at]);
    });
  }

  // Shows the tokens of a sample that are new since the last time.
  function show(sample) {
    const { tokenizer } = state.current;
    sample.decode ??= tokenizer.decoder();
    for (let index = sample.spans.length; index < sample.steps.length; index++) {
      const { id, isForced } = sample.steps[index];
      const isEnd = id === tokenizer.bos;
      const text = sample.decode(id);
      sample.spans.push(el("span", {
        class: isEnd ? "token end" : "token", title: isForced ? "chosen by you" : null,
        onclick: () => choose(samples.indexOf(sample), index),
      }, isEnd ? "end" : text));
      sample.node.append(sample.spans[index]);
    }
  }

  // Shows a sample anew, of which the tokens have changed.
  function showAll(sample) {
    sample.decode = null;
    sample.spans = [];
    sample.node.replaceChildren(...(prompt.written ? [el("span", { class: "prompt" }, prompt.written)] : []));
    show(sample);
  }

  function choose(number, index) {
    const sample = samples[number];
    if (!sample?.steps[index]) return;
    list.querySelector(".chosen")?.classList.remove("chosen");
    chosen = [number, index];
    sample.spans[index].classList.add("chosen");
    const { tokenizer } = state.current;
    const { id, weights } = sample.steps[index];
    const bits = -Math.log2(weights[id]);
    side.replaceChildren(
      el("h3", {}, `Character ${index + 1}: ${tokenizer.label(id)}`),
      el("p", { class: "soft small" }, `It had ${percent(weights[id])}, which is ${Math.abs(bits).toFixed(1)} bits of surprise. ` +
        "Choose another one to go on from there."),
      probabilityBars(weights, tokenizer, { taken: id, choose: (other) => replace(number, index, other) }));
  }

  // Another token in place of the one drawn; what comes after it is written anew.
  function replace(number, index, id) {
    const sample = samples[number];
    const { weights } = sample.steps[index];
    sample.steps = [...sample.steps.slice(0, index), { id, weights, isForced: true }];
    sample.isWhole = false;
    showAll(sample);
    choose(number, index);
    run(number);
  }

  function begin(event) {
    event?.preventDefault();
    message.textContent = "";
    end();
    const { model, tokenizer, isStream } = state.current;
    try {
      const ids = beginning(tokenizer, prompt.value, isStream);
      prompt.written = prompt.value;
      random?.free();
      random = state.core.random(Math.floor(Number(seed.value)) || 0);
      chosen = null;
      const n = Math.min(200, Math.max(1, Math.floor(Number(count.value)) || 1));
      samples = Array.from({ length: n }, () => ({ ids, steps: [], spans: [], node: el("li", {}) }));
      samples.forEach(showAll);
      list.classList.toggle("long", isStream);
      list.replaceChildren(...samples.map((sample) => sample.node));
      side.replaceChildren(el("h3", {}, "Why this character?"), el("p", { class: "soft small" },
        "Choose one in the text: here come the probabilities it was drawn from."));
      if (model) run(0);
    } catch (error) {
      message.textContent = error.message;
    }
  }

  const fit = () => (prompt.rows = Math.min(6, prompt.value.split("\n").length));
  prompt.addEventListener("input", fit);
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) begin(event);
  });
  list.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move || !samples.length) return;
    event.preventDefault();
    const [number, index] = chosen ?? [0, -1];
    const to = Math.min(samples.length - 1, Math.max(0, number + move[0]));
    choose(to, Math.min(samples[to].steps.length - 1, Math.max(0, index + move[1])));
  });

  const controls = el("form", { class: "card", onsubmit: begin },
    field("Prompt", prompt),
    el("div", { class: "grid", style: { "margin-top": "12px" } },
      field("temperature", temperature, (value) => (Number(value) ? value : "0: the likeliest")),
      field("top-p", topP, (value) => (Number(value) < 1 ? value : "off")),
      field("top-k (0: off)", topK), field("seed", seed), field("samples", count), field("most tokens", length)),
    el("div", { class: "row" }, go, stop), message);

  const surprise = surpriseCard(state);
  const node = el("div", {},
    el("div", { class: "two" }, el("div", {}, controls, el("section", { class: "card", "aria-label": "Text" }, list)),
      el("section", { class: "card", "aria-label": "Probabilities" }, side)),
    surprise.node);
  return {
    node,
    // Another model was chosen: begin anew.
    changed() {
      const { model, isStream } = state.current;
      temperature.value = state.current.temperature;
      temperature.dispatchEvent(new Event("input"));
      length.value = isStream ? 300 : model.config.block_size;
      count.value = isStream ? 1 : 10;
      begin();
      surprise.changed();
    },
    hidden: end,
  };
}

function surpriseCard(state) {
  const text = el("textarea", { id: "surprise-text", spellcheck: "false", rows: 3 });
  const summary = el("p", { id: "bits", "aria-live": "polite" });
  const coloured = el("p", { class: "surprise", id: "surprise" });
  const details = el("p", { class: "soft small" }, "Point at a character to see how likely it was.");

  function update() {
    const { model, tokenizer, isStream } = state.current;
    coloured.replaceChildren();
    const all = text.value;
    let part = [...all.slice(0, 2 * MOST_SURPRISE)].slice(0, MOST_SURPRISE).join("");
    if (!part) {
      summary.textContent = "Paste any text.";
      return;
    }
    let ids;
    try {
      ids = [tokenizer.bos, ...tokenizer.encode(part), ...(isStream ? [] : [tokenizer.bos])];
    } catch (error) {
      summary.textContent = error.message;
      return;
    }
    const found = surprises(model, ids);
    const bits = found.reduce((sum, one) => sum + one.bits, 0) / [...part].length;
    const cut = part.length < all.length ? ` Only the first ${MOST_SURPRISE.toLocaleString("en")} characters were read.` : "";
    summary.textContent = `${bits.toFixed(2)} bits per character: as hard to guess as one of ${(2 ** bits).toFixed(1)} ` +
      `equally likely characters, each time.${cut}`;
    const decode = tokenizer.decoder();
    coloured.append(...found.map(({ id, bits: own, weights }) => {
      const label = id === tokenizer.bos ? "the end" : tokenizer.label(id);
      const note = `${label}: ${percent(weights[id])}, ${own.toFixed(1)} bits`;
      const piece = decode(id);
      return el("span", { title: note, style: heat(own / 10), onpointerenter: () => (details.textContent = note) },
        id === tokenizer.bos ? el("span", { class: "sign small" }, " end")
          : piece === "\n" ? [el("span", { class: "sign" }, visible("\n")), "\n"] : piece);
    }));
  }

  let timer = 0;
  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(update, 120);
  });
  const node = el("section", { class: "card" }, el("h2", {}, "How surprising is a text?"),
    el("p", { class: "soft" }, "Each character is coloured by the bits of surprise it gave the model: −log₂ of its probability."),
    field("Your text", text), summary, coloured,
    el("div", { class: "row small soft" }, el("span", { class: "scale" }, "expected",
      [0.05, 0.2, 0.4, 0.7, 1].map((share) => el("i", { style: heat(share) })), "surprising: 10 bits"), details));
  return {
    node,
    changed() {
      const { tokenizer, example } = state.current;
      text.value = example ?? tokenizer.decode([]);
      update();
    },
  };
}
