// For each [temperature, top-k, top-p] of argv[3], the weights to draw with from each row of logits of argv[2].
import { limited, softmax } from "../../microgpt_fast/web/sampling.js";

const [rows, cases] = process.argv.slice(2).map((text) => JSON.parse(text));
console.log(JSON.stringify(cases.map(([temperature, topK, topP]) =>
  rows.map((logits) => Array.from(limited(softmax(logits, temperature), topK, topP))))));
