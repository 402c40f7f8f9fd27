// Trains in Node.js with the core in argv[2] on the text in argv[3], with the options in argv[4]; prints JSON.
// The option `dtype` is the core's.
import { readFileSync, writeFileSync } from "node:fs";
import { Core } from "../../microgpt_fast/web/core.js";
import { safetensors } from "../../microgpt_fast/web/safetensors.js";
import { Trainer } from "../../microgpt_fast/web/training.js";

const [module, text, options, file] = process.argv.slice(2);
const wanted = JSON.parse(options);
const core = await Core.load(readFileSync(module), wanted.dtype === "float64" ? Float64Array : Float32Array);
const trainer = new Trainer(core, readFileSync(text, "utf8"), wanted);
const open = trainer.open();
trainer.steps(10);
trainer.steps(1e9);
if (file) writeFileSync(file, safetensors(trainer.model, trainer.tokenizer, trainer.options));
console.log(JSON.stringify({ losses: trainer.losses, samples: trainer.samples(20), gradient: open.norms.gradient }));
