// Whether a page refuses the configuration in argv[2] because it is too large.
import { refusal } from "../../microgpt_fast/web/core.js";

console.log(JSON.stringify(/too large/.test(refusal(JSON.parse(process.argv[2])) ?? "")));
