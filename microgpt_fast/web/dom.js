// Elements. Texts become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

export const el = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

// Text in the document's voice, in the code's, and as a note.
export const p = (...content) => el("p", {}, content);
export const code = (text) => el("code", {}, text);
export const caption = (...content) => el("p", { class: "small soft" }, content);

// A table with these column heads, of which all but the first are numbers' with `isNumeric`.
export const table = (heads, rows, { isNumeric, ...properties } = {}) => el("table", properties,
  el("thead", {}, el("tr", {}, heads.map((head, i) => el("th", { scope: "col", class: isNumeric && i ? "num" : null }, head)))),
  el("tbody", {}, rows));

// A labelled input; `shown` tells the value of a slider.
export function field(label, input, shown) {
  const value = shown && el("span", { class: "num" }, shown(input.value));
  if (shown) input.addEventListener("input", () => (value.textContent = shown(input.value)));
  return el("label", { class: "field" }, el("span", {}, label, value), input);
}

export const slider = (min, max, step, value) => el("input", { type: "range", min, max, step, value });
export const number = (value, min = 1, step = 1) => el("input", { type: "number", min, step, value, inputmode: "decimal" });
export const select = (options, value) =>
  el("select", {}, Object.entries(options).map(([key, text]) => el("option", { value: key, selected: key === String(value) }, text)));

export const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");
export function short(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 0.001 && size < 1e4 ? x.toFixed(size < 0.1 ? 4 : 3) : x.toExponential(1);
}
export const grouped = (n) => Math.round(n).toLocaleString("en");

// Calls `work` now and then until it returns false, so that the page stays alive; returns a function that stops it.
export function repeatedly(work) {
  let handle = requestAnimationFrame(function again() {
    handle = work() === false ? 0 : requestAnimationFrame(again);
  });
  return () => cancelAnimationFrame(handle);
}

export function download(name, bytes, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
