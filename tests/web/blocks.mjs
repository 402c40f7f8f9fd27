// Where the first hundred blocks of the text argv[3] begin, and how long they are, with the core argv[2] and the seed argv[4].
import { readFileSync } from "node:fs";
import { Core } from "../../microgpt_fast/web/core.js";
import { Trainer } from "../../microgpt_fast/web/training.js";

const [module, text, seed] = process.argv.slice(2);
const core = await Core.load(readFileSync(module));
const trainer = new Trainer(core, text, { data_mode: "stream", block_size: 11, seed: BigInt(seed) });
console.log(JSON.stringify(Array.from({ length: 100 }, (_, step) => Object.values(trainer.sequence(step)))));
