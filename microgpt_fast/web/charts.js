// Bars, curves and heat maps.

import { el, percent, short, svg } from "./dom.js";
import { ranking } from "./sampling.js";

// The likeliest tokens as bars; with `choose` each is a button. `taken`: the id that was drawn.
export function probabilityBars(weights, tokenizer, { taken, choose, most = 12 } = {}) {
  const order = ranking(weights).filter((id) => weights[id] > 0 || id === taken);
  const shown = order.slice(0, most);
  if (taken !== undefined && !shown.includes(taken)) shown[shown.length - 1] = taken;
  const rest = order.filter((id) => !shown.includes(id)).reduce((sum, id) => sum + weights[id], 0);
  const bar = (id) => {
    const label = tokenizer.label(id);
    const properties = { class: id === taken ? "bar taken" : "bar" };
    if (choose) Object.assign(properties, { type: "button", onclick: () => choose(id), title: `Go on with ${label}` });
    return el("li", {}, el(choose ? "button" : "div", properties, el("span", { class: "name" }, label),
      track(weights[id]), el("span", { class: "value" }, percent(weights[id]))));
  };
  return el("ol", { class: "bars" }, shown.map(bar),
    rest > 0 && el("li", { class: "soft small" }, `${order.length - shown.length} others together: ${percent(rest)}`));
}

const track = (share) =>
  el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "fill", style: { width: `${100 * share}%` } }));

// Named amounts as bars of a common scale: rows are [name, value, text].
export function amountBars(rows) {
  const largest = Math.max(...rows.map(([, value]) => value), 1e-30);
  return el("ul", { class: "bars wide" }, rows.map(([name, value, text]) =>
    el("li", {}, el("div", { class: "bar" }, el("span", { class: "name", title: name }, name), track(value / largest),
      el("span", { class: "value" }, text ?? short(value))))));
}

// Losses by step: dots, and their running mean.
export function lossChart(losses, total, first, room) {
  const width = Math.max(280, Math.min(640, room || 640));
  const [height, left, bottom] = [Math.max(190, 0.4 * width), 26, 24];
  const most = Math.max(first * 1.15, 0.1);
  const x = (step) => left + ((width - left - 8) * step) / Math.max(total, 1);
  const y = (loss) => (height - bottom) - (height - bottom - 10) * Math.min(loss / most, 1);
  const every = Math.max(1, Math.ceil(losses.length / 1500));
  const dots = [], curve = [];
  let mean = 0;
  losses.forEach((loss, i) => {
    const share = Math.max(2 / (i + 2), 0.03);
    mean += (loss - mean) * share;
    if (i % every === 0) dots.push(`M${x(i + 1).toFixed(1)} ${y(loss).toFixed(1)}h.01`);
    if (i % every === 0 || i === losses.length - 1) curve.push(`${x(i + 1).toFixed(1)} ${y(mean).toFixed(1)}`);
  });
  const ticks = Array.from({ length: Math.floor(most) + 1 }, (_, i) => i).filter((_, i, all) => all.length < 9 || i % 2 === 0);
  const label = losses.length ? `Loss after ${losses.length} of ${total} steps: ${mean.toFixed(2)} on average` : "No steps yet";
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ticks.map((tick) => [svg("line", { class: "axis", x1: left, x2: width - 8, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick))]),
    svg("text", { x: left, y: height - 6 }, "0"),
    svg("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, `${total.toLocaleString("en")} steps`),
    svg("path", { d: dots.join(""), stroke: "var(--blue)", "stroke-width": 3, "stroke-linecap": "round", opacity: 0.3 }),
    svg("path", { class: "curve", d: curve.length ? `M${curve.join("L")}` : "" }));
}

// A square matrix of shares as a canvas; `hover` gets (row, column) or nothing.
export function heatMap(values, n, { hover, click }) {
  const canvas = el("canvas", { width: n, height: n });
  const [red, green, blue] = getComputedStyle(document.documentElement).getPropertyValue("--heat").split(",").map(Number);
  const context = canvas.getContext("2d");
  const image = context.createImageData(n, n);
  values.forEach((value, i) => image.data.set([red, green, blue, 255 * Math.min(1, value) ** 0.7], 4 * i));
  context.putImageData(image, 0, 0);
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (offset, size) => Math.min(n - 1, Math.max(0, Math.floor((offset / size) * n)));
    return [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
  };
  canvas.addEventListener("pointermove", (event) => hover(...place(event)));
  canvas.addEventListener("pointerleave", () => hover());
  canvas.addEventListener("click", (event) => {
    click(...place(event));
    hover(...place(event)); // for fingers, which do not hover
  });
  return canvas;
}

// Rows of numbers [n, C] on their two principal axes, found by power iteration.
export function principalAxes(rows) {
  const n = rows.length, C = rows[0].length;
  const mean = Float64Array.from({ length: C }, (_, c) => rows.reduce((sum, row) => sum + row[c], 0) / n);
  const centred = rows.map((row) => Float64Array.from(row, (value, c) => value - mean[c]));
  const axes = [];
  for (let a = 0; a < 2; a++) {
    let axis = Float64Array.from({ length: C }, (_, c) => Math.sin(c + 1 + a));
    for (let round = 0; round < 60; round++) {
      const next = new Float64Array(C);
      for (const row of centred) {
        const along = row.reduce((sum, value, c) => sum + value * axis[c], 0);
        row.forEach((value, c) => (next[c] += along * value));
      }
      for (const other of axes) {
        const along = next.reduce((sum, value, c) => sum + value * other[c], 0);
        other.forEach((value, c) => (next[c] -= along * value));
      }
      const norm = Math.hypot(...next) || 1;
      axis = next.map((value) => value / norm);
    }
    axes.push(axis);
  }
  return centred.map((row) => axes.map((axis) => row.reduce((sum, value, c) => sum + value * axis[c], 0)));
}

// Labelled points [{ label, x, y, isChosen }] in a frame.
export function scatter(points, label) {
  const [width, height, margin] = [520, 400, 24];
  const extent = (key) => {
    const values = points.map((point) => point[key]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => (value - low) / (high - low || 1);
  };
  const [fx, fy] = [extent("x"), extent("y")];
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    points.map((point) => svg("g", {
      class: point.isChosen ? "point chosen" : "point",
      transform: `translate(${margin + fx(point.x) * (width - 2 * margin)} ${height - margin - fy(point.y) * (height - 2 * margin)})`,
    }, svg("circle", { r: 12 }), svg("text", {}, point.label))));
}

// A background that tells a share, for `el`'s style.
export function heat(share, kind = "heat") {
  const opacity = 0.85 * Math.min(1, Math.max(0, share)); // text must be read on it
  return { "background-color": `rgba(var(--${kind}), ${opacity.toFixed(3)})` };
}

// A small vector as coloured squares.
export function vectorSquares(values) {
  const largest = Math.max(...values.map(Math.abs), 1e-9);
  return el("div", { class: "vector", role: "img", "aria-label": values.map((v) => v.toFixed(2)).join(", ") },
    Array.from(values, (value) =>
      el("i", { title: value.toFixed(3), style: heat(Math.abs(value) / largest, value < 0 ? "cool" : "heat") })));
}
