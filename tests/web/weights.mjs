// The weights that a page makes of the bytes in argv[2], which are of the kind argv[3], for the configuration argv[4].
import { readFileSync } from "node:fs";
import { weightsOf } from "../../microgpt_fast/web/bytes.js";
import { parametersOf } from "../../microgpt_fast/web/core.js";

const [file, kind, config] = process.argv.slice(2);
console.log(JSON.stringify(Array.from(weightsOf(readFileSync(file), kind, parametersOf(JSON.parse(config))))));
