// The table of parameters of the configuration in argv[2], as JSON.
import { parametersOf } from "../../microgpt_fast/web/core.js";

console.log(JSON.stringify(parametersOf(JSON.parse(process.argv[2]))));
