// The page: reads the model from it, tests itself, and shows the four views.

import { fromBase64, gunzip, gzip, toBase64, weightsOf } from "./bytes.js";
import { Core, Model, parametersOf } from "./core.js";
import { download, el, grouped, select } from "./dom.js";
import { insideView } from "./inside_view.js";
import { lessonsView } from "./lessons_view.js";
import { recorded, selfTest } from "./selftest.js";
import { tokenizerOf } from "./tokenizer.js";
import { trainView } from "./train_view.js";
import { Trainer } from "./training.js";
import { writeView } from "./write_view.js";

const pristine = document.documentElement.cloneNode(true); // for saving the page again
const content = (id) => document.getElementById(id).textContent;

async function start() {
  const about = JSON.parse(content("about"));
  const [module, packed, names] = await Promise.all(["core", "weights", "names"].map((id) => gunzip(fromBase64(content(id)))));
  const core = await Core.load(module);
  const table = parametersOf(about.config);
  const tokenizer = tokenizerOf(about.tokenizer);
  const saved = {
    model: new Model(core, about.config, weightsOf(packed, about.weights, table)), tokenizer, name: about.name,
    isStream: about.is_stream, temperature: about.temperature, example: about.example,
  };
  const state = { core, about, saved, trained: null, current: saved, names: new TextDecoder().decode(names) };
  build(state);
  Object.assign(globalThis, { microgpt: { core, state, Trainer, Model } }); // for the curious, in the console
}

function build(state) {
  const { about } = state;
  const test = el("p", { class: "test", id: "self-test", role: "status" }, "testing …");
  const which = select({ saved: "" }, "saved");
  const whose = el("label", { class: "small soft", hidden: true }, "Model ", which);
  const theme = el("button", { type: "button", class: "plain", "aria-label": "Dark or light" }, "◐");
  const summary = el("p", { class: "soft small", id: "summary" });
  const views = { write: ["Write", writeView(state)], train: ["Train", null], inside: ["See inside", insideView(state)],
    lessons: ["How it works", lessonsView(state)] };
  views.train[1] = trainView(state, {
    trained(model) {
      const before = state.trained;
      state.trained = model;
      which.replaceChildren(el("option", { value: "saved" }, about.name), el("option", { value: "trained" }, "trained here"));
      which.value = "trained";
      whose.hidden = false;
      use(model);
      if (before && before.model !== model.model) before.model.free();
    },
    savePage: (model) => savePage(state, model),
  });
  const stale = new Set();

  function use(model) {
    state.current = model;
    const { config } = model.model;
    summary.textContent = `${model.name}: ${grouped(model.model.count)} parameters, n_layer ${config.n_layer}, ` +
      `n_embd ${config.n_embd}, n_head ${config.n_head}, block_size ${config.block_size}, ` +
      `${config.vocab_size} tokens` + (model === state.saved && about.note ? `; ${about.note}` : "");
    for (const key of Object.keys(views)) stale.add(key);
    refresh();
  }

  let shown = about.opens;
  function refresh() {
    if (stale.delete(shown)) views[shown][1].changed?.();
  }
  function show(key) {
    views[shown][1].hidden?.();
    shown = key;
    for (const other of Object.keys(views)) {
      tabs[other].setAttribute("aria-selected", String(other === key));
      tabs[other].tabIndex = other === key ? 0 : -1;
      panels[other].hidden = other !== key;
    }
    refresh();
  }
  const keys = Object.keys(views);
  const tabs = {}, panels = {};
  for (const key of keys) {
    const names = { id: `tab-${key}`, "aria-controls": `panel-${key}` };
    tabs[key] = el("button", { type: "button", role: "tab", ...names, onclick: () => show(key) }, views[key][0]);
    panels[key] = el("div", { role: "tabpanel", id: `panel-${key}`, "aria-labelledby": `tab-${key}` }, views[key][1].node);
  }
  const bar = el("div", { role: "tablist", "aria-label": "Views" }, Object.values(tabs));
  bar.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    const next = keys[(keys.indexOf(shown) + move + keys.length) % keys.length];
    show(next);
    tabs[next].focus();
  });

  which.addEventListener("change", () => use(which.value === "trained" ? state.trained : state.saved));
  const root = document.documentElement;
  const paint = (dark) => root.setAttribute("data-theme", dark ? "dark" : "light");
  const system = matchMedia("(prefers-color-scheme: dark)");
  paint(system.matches);
  system.addEventListener("change", () => paint(system.matches));
  theme.addEventListener("click", () => {
    paint(root.getAttribute("data-theme") !== "dark");
    stale.add("inside").add("lessons");
    refresh();
  });

  document.title = `microgpt · ${about.name}`;
  document.getElementById("page").replaceChildren(
    el("header", {}, el("div", { class: "title" }, el("h1", {}, "microgpt", theme), summary),
      el("div", { class: "tools" }, test, whose)),
    bar, el("main", { id: "main" }, Object.values(panels)),
    el("footer", {}, "The model of microgpt.py, computed on this machine by the C core of microgpt_fast, compiled for " +
      `WebAssembly. Nothing is loaded from or sent to a network. Version ${about.version}.`));
  show(shown);
  use(state.current);

  setTimeout(() => {
    const { ok, text } = selfTest(state.saved.model, state.saved.tokenizer.bos, about.expected);
    test.classList.add(ok ? "good" : "bad");
    test.textContent = text;
  });
}

// JSON that cannot end the element it stands in.
const inert = (value) => JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (char) =>
  `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);

// This page with another model in it, as a file.
async function savePage(state, { model, tokenizer, isStream, temperature, example }) {
  const copy = pristine.cloneNode(true);
  const weights = new Uint8Array(model.params.view.slice().buffer);
  const about = {
    ...state.about, config: model.config, tokenizer: tokenizer.constants(), is_stream: isStream, temperature, example,
    weights: "float32", note: null, name: "trained in a browser", opens: "write", expected: recorded(model, tokenizer.bos),
  };
  copy.querySelector("#about").textContent = inert(about);
  copy.querySelector("#weights").textContent = toBase64(await gzip(weights));
  download("microgpt.html", `<!doctype html>\n${copy.outerHTML}\n`, "text/html");
}

start().catch((error) => {
  document.getElementById("page").replaceChildren(
    el("p", { class: "loading" }, `This page could not start: ${error.message}. It needs a browser of 2023 or later.`));
});
