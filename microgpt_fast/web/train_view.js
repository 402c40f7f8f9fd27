// Train: a new model from the built-in names or the reader's own text, in the page.

import { amountBars, lossChart } from "./charts.js";
import { ACTIVATIONS, refusal } from "./core.js";
import { caption, code, download, el, field, grouped, number, p, repeatedly, select, short } from "./dom.js";
import { safetensors } from "./safetensors.js";
import { DEFAULTS, Trainer, looksLikeStream } from "./training.js";

const FRAME = 12; // milliseconds of training between two pictures
const WATCHED = 5; // seconds that a whole training takes at the slow pace
const MOST_TEXT = 20e6; // characters
const KEPT_ASIDE = 100e3; // a longer text is kept out of the text field, which would be slow
const COUNTED = 20; // the least steps in one call that count for the speed: what a call costs is not meant
const SAMPLES = 20; // drawn at the end, as the original does

export function trainView(state, { trained, savePage }) {
  const input = {
    n_layer: number(DEFAULTS.n_layer), n_embd: number(DEFAULTS.n_embd), n_head: number(DEFAULTS.n_head),
    block_size: number(DEFAULTS.block_size), learning_rate: number(DEFAULTS.learning_rate, 0, "any"),
    num_steps: number(DEFAULTS.num_steps), seed: number(DEFAULTS.seed, 0),
  };
  for (const [name, node] of Object.entries(input)) node.id = name;
  const activation = select(Object.fromEntries(ACTIVATIONS.map((name) => [name, name])), "relu");
  const pace = select({ watch: "slowly, to watch", full: "full speed" }, "watch");
  pace.id = "pace";
  const mode = select({ auto: "find out", lines: "a document per line", stream: "one long text" }, "auto");
  const own = el("textarea", {
    id: "own-text", rows: 5, spellcheck: "false", placeholder: "Paste a text: one word or sentence per line, or one long text.",
  });
  const aside = el("p", { class: "small soft" });
  const file = el("input", { type: "file", accept: "text/*,.txt,.md,.csv" });
  let long = null; // a pasted text too long for the field
  const source = (value, text, checked) =>
    el("label", { class: "radio" }, el("input", { type: "radio", name: "source", value, checked, onchange: changedSource }), text);
  const ownFields = el("div", { hidden: true }, own, aside, field("or a text file", file), field("It is", mode));
  const message = el("p", { class: "message", role: "alert", id: "train-message" });
  const go = el("button", { type: "button", class: "primary", id: "train", onclick: () => (halt ? pause() : train()) }, "Train");
  const one = el("button", { type: "button", id: "step", onclick: step }, "One step");
  const reset = el("button", { type: "button", onclick: restart }, "Reset");
  const save = el("button", { type: "button", disabled: true, onclick: saveModel }, "Save .safetensors");
  const saveHtml = el("button", { type: "button", disabled: true, onclick: () => savePage(asModel()) }, "Save as a page");
  const chart = el("div", {});
  const figures = el("dl", { class: "figures", id: "figures" });
  const samples = el("ol", { class: "samples", id: "samples", "aria-live": "off" });
  const finalTitle = el("h3", { hidden: true, style: { "margin-top": "18px" } }, "New ones, from the trained model");
  const final = el("ol", { class: "final", id: "final" });
  const open = el("section", { class: "card", hidden: true });

  let trainer = null; // with the settings of the fields, or null until it is needed
  let halt = null; // stops the training that runs
  let handed = 0; // the step of the model that the other views have
  let spent = 0, counted = 0; // milliseconds and steps in the core, for the speed

  function changedSource() {
    ownFields.hidden = chosenSource() !== "own";
    restart();
  }
  const chosenSource = () => node.querySelector("input[name=source]:checked").value;

  const settings = () => {
    const values = Object.fromEntries(Object.entries(input).map(([name, node]) => [name, Number(node.value)]));
    return { ...values, activation: activation.value };
  };

  function text() {
    if (chosenSource() === "names") return state.names;
    return long ?? own.value;
  }

  // The trainer for what the fields say; throws an error that says what is wrong.
  function prepared() {
    if (trainer) return trainer;
    const options = settings();
    const wrong = refusal({ ...options, vocab_size: 1 });
    if (wrong) throw new Error(wrong);
    if (!(options.learning_rate > 0)) throw new Error("learning_rate must be a number above 0.");
    if (!Number.isSafeInteger(options.num_steps) || options.num_steps < 1) {
      throw new Error("num_steps must be a whole number of at least 1.");
    }
    if (!Number.isSafeInteger(options.seed)) throw new Error("seed must be a whole number.");
    const all = text();
    if (all.length > MOST_TEXT) {
      throw new Error(`A page takes ${MOST_TEXT / 1e6} million characters, this text has ${grouped(all.length)}.`);
    }
    const asks = chosenSource() === "own" ? mode.value : "lines";
    const data_mode = asks === "auto" ? (looksLikeStream(all, options.block_size) ? "stream" : "lines") : asks;
    trainer = new Trainer(state.core, all, { ...options, data_mode });
    state.trainer = trainer;
    spent = counted = 0;
    samples.replaceChildren();
    return trainer;
  }

  function asModel() {
    const { model, tokenizer, options, documents } = trainer;
    return {
      model, tokenizer, name: `trained here, ${grouped(trainer.step)} steps`, isStream: options.data_mode === "stream",
      temperature: 0.5, example: documents[0].slice(0, 200),
    };
  }

  function saveModel() {
    const { model, tokenizer, options } = trainer;
    download("model.safetensors", safetensors(model, tokenizer, options), "application/octet-stream");
  }

  function attempt(work) {
    message.textContent = "";
    try {
      return work();
    } catch (error) {
      message.textContent = error.message;
      pause();
      return null;
    }
  }

  function train() {
    attempt(() => {
      const { options } = prepared();
      if (trainer.isDone) {
        restart();
        prepared();
      }
      go.textContent = "Pause";
      const every = Math.max(1, Math.floor(options.num_steps / 10)); // steps between two samples along the way
      let size = 1, credit = 0, last = performance.now();
      halt = repeatedly(() => attempt(() => {
        const began = performance.now();
        credit = Math.min(credit + ((began - last) / 1000) * (options.num_steps / WATCHED), options.num_steps);
        last = began;
        while (!trainer.isDone && performance.now() - began < FRAME) {
          if (pace.value === "watch" && credit < 1) break;
          const whole = Math.min(size, every - (trainer.step % every));
          const steps = pace.value === "watch" ? Math.min(whole, Math.floor(credit)) : whole;
          const start = performance.now();
          const losses = trainer.steps(steps);
          const took = performance.now() - start;
          if (losses.some((loss) => !Number.isFinite(loss))) throw new Error("The training diverged: choose a smaller learning_rate.");
          credit -= steps;
          if (steps >= COUNTED) {
            spent += took;
            counted += steps;
          }
          size = Math.max(1, Math.min(1000, Math.floor((steps * FRAME) / Math.max(took, 0.05) / 2)));
          if (trainer.step % every === 0 && !trainer.isDone) along();
        }
        draw();
        if (trainer.isDone) {
          finish();
          return false;
        }
        return true;
      }) ?? false);
    });
  }

  // A sample along the way, from a random stream of its own.
  function along() {
    const random = state.core.random(trainer.step);
    try {
      const [text] = trainer.samples(1, 0.5, random);
      const when = el("span", { class: "num" }, `step ${grouped(trainer.step)}`);
      samples.prepend(el("li", {}, when, el("span", {}, text || "(nothing)")));
    } finally {
      random.free();
    }
  }

  function finish() {
    pause();
    const texts = trainer.samples(trainer.options.data_mode === "stream" ? 3 : SAMPLES);
    final.classList.toggle("columns", trainer.options.data_mode !== "stream");
    final.replaceChildren(...texts.map((text) => el("li", {}, text || "(nothing)")));
    finalTitle.hidden = false;
    handOn();
  }

  // Gives the model as it is now to the other views.
  function handOn() {
    if (!trainer?.step || handed === trainer.step) return;
    handed = trainer.step;
    trained(asModel());
  }

  function pause() {
    halt?.();
    halt = null;
    go.textContent = trainer && !trainer.isDone && trainer.step ? "Go on" : "Train";
  }

  function step() {
    pause();
    attempt(() => {
      if (prepared().isDone) return;
      const found = trainer.open();
      if (!Number.isFinite(found.loss)) throw new Error("The training diverged: choose a smaller learning_rate.");
      draw();
      showStep(found);
      if (trainer.isDone) finish();
    });
  }

  function restart() {
    const old = trainer;
    trainer = null;
    pause();
    // The other views may still use the last model trained here; then it stays in memory.
    if (old) old.free(state.trained?.model === old.model);
    handed = 0;
    finalTitle.hidden = true;
    final.replaceChildren();
    open.hidden = true;
    samples.replaceChildren();
    message.textContent = "";
    draw();
  }

  function draw() {
    const { num_steps } = trainer?.options ?? settings();
    const unknowing = Math.log(trainer?.model.config.vocab_size ?? 27);
    chart.replaceChildren(lossChart(trainer?.losses ?? [], num_steps || 1, unknowing, chart.clientWidth));
    const last = trainer?.losses.slice(-50) ?? [];
    const mean = last.reduce((sum, loss) => sum + loss, 0) / last.length;
    const rows = [["step", trainer ? `${grouped(trainer.step)} / ${grouped(num_steps)}` : "–"],
      ["loss, mean of 50", last.length ? mean.toFixed(3) : "–"],
      ["steps per second", counted ? grouped(counted / (spent / 1000)) : "–"],
      ["documents", trainer ? grouped(trainer.documents.length) : "–"],
      ["tokens known", trainer ? trainer.model.config.vocab_size : "–"],
      ["parameters", trainer ? grouped(trainer.model.count) : "–"]];
    figures.replaceChildren(...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
    save.disabled = saveHtml.disabled = !trainer?.step;
  }

  function showStep({ step, ids, loss, lr, norms, example }) {
    const { tokenizer } = trainer;
    const text = ids.map((id) => (id === tokenizer.bos ? "bos" : tokenizer.label(id))).join(" ");
    open.hidden = false;
    open.replaceChildren(
      el("h2", {}, `Step ${step} in the open`),
      p("The document ", code(text.length > 300 ? `${text.slice(0, 300)} …` : text), ` has a loss of ${loss.toFixed(4)}: `,
        `${ids.length - 1} predictions, each worth −ln(probability), on average.`),
      el("div", { class: "two even" },
        el("div", {}, el("h3", {}, "The gradient, by tensor"),
          caption("Its norm: how much the loss would change with this tensor."), amountBars(norms.gradient)),
        el("div", {}, el("h3", {}, "Adam’s step, by tensor"),
          caption(`The norm of the change, at learning rate ${short(lr)}.`), amountBars(norms.change))),
      p("The largest gradient belongs to ", code(example.name), `: g = ${short(example.g)}. Its averages, corrected, are `,
        `m̂ = ${short(example.m_hat)} and v̂ = ${short(example.v_hat)}, so that it moves by −${short(lr)} · m̂ / (√v̂ + ε), `,
        `from ${example.before.toFixed(5)} to ${example.after.toFixed(5)}.`));
  }

  own.addEventListener("paste", (event) => {
    const pasted = event.clipboardData?.getData("text/plain") ?? "";
    if (pasted.length <= KEPT_ASIDE) return;
    event.preventDefault();
    keepAside(pasted, "The pasted text");
  });
  own.addEventListener("input", () => {
    long = null;
    aside.textContent = "";
    restart();
  });
  file.addEventListener("change", async () => {
    if (file.files[0]) keepAside((await file.files[0].text()).replace(/\r\n?/g, "\n"), "The file");
  });
  function keepAside(text, what) {
    long = text;
    own.value = text.slice(0, 2000);
    aside.textContent = `${what} has ${grouped(text.length)} characters; all are used, the first 2,000 are shown.`;
    restart();
  }
  for (const node of [...Object.values(input), activation, mode]) node.addEventListener("change", restart);

  const node = el("div", {},
    el("div", { class: "two left" },
      el("section", { class: "card", "aria-label": "Settings" },
        el("fieldset", {}, el("legend", {}, "What it reads"),
          source("names", "5,163 first names", true), source("own", "my own text", false)),
        ownFields,
        el("div", { class: "grid", style: { "margin-top": "12px" } },
          Object.entries(input).map(([name, node]) => field(name, node)), field("activation", activation), field("pace", pace)),
        el("div", { class: "row" }, go, one, reset), message,
        el("div", { class: "row" }, save, saveHtml)),
      el("section", { class: "card", "aria-label": "Progress" }, el("h2", {}, "Loss"),
        caption("Nats per token: each dot a document, the line their running mean. ",
          "A model that knows nothing has ln(number of tokens)."),
        chart, figures, finalTitle, final, el("h3", { style: { "margin-top": "18px" } }, "Along the way"), samples)),
    open);
  draw();
  return {
    node,
    changed: draw,
    hidden() {
      pause();
      handOn();
    },
  };
}
