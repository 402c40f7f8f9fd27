// The page's modules that need no document and no core. Run by tests/test_web.py, or: node --test tests/web/
import assert from "node:assert/strict";
import test from "node:test";
import { crc32, fromBase64, gunzip, gzip, toBase64, weightsOf } from "../../microgpt_fast/web/bytes.js";
import { principalAxes } from "../../microgpt_fast/web/charts.js";
import { countOf, parametersOf, refusal } from "../../microgpt_fast/web/core.js";
import { percent, short } from "../../microgpt_fast/web/dom.js";
import { Reader, beginning, limited, ranking, softmax } from "../../microgpt_fast/web/sampling.js";
import { ByteTokenizer, Tokenizer, charactersOf, visible } from "../../microgpt_fast/web/tokenizer.js";
import { documentsOf, looksLikeStream } from "../../microgpt_fast/web/training.js";

const config = { n_layer: 2, n_embd: 24, n_head: 3, block_size: 9, vocab_size: 31, activation: "relu" };

test("base64 and gzip give back what they took", async () => {
  const bytes = Uint8Array.from({ length: 100000 }, (_, i) => (i * 131 + (i >> 8)) % 256);
  assert.deepEqual(fromBase64(toBase64(bytes)), bytes);
  assert.deepEqual(await gunzip(await gzip(bytes)), bytes);
});

test("crc32 is zlib's, in one piece or several", () => {
  const bytes = new TextEncoder().encode("123456789");
  assert.equal(crc32(bytes), 0xcbf43926);
  assert.equal(crc32(bytes.subarray(4), crc32(bytes.subarray(0, 4))), 0xcbf43926);
});

test("halves are read as IEEE 754 has them", () => {
  const halves = [0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x8000, 0x3555];
  const bytes = new Uint8Array(new Uint16Array(halves).buffer);
  const table = [{ rows: 1, columns: halves.length, size: halves.length }];
  assert.deepEqual(Array.from(weightsOf(bytes, "float16", table)),
    [1, -2, 65504, 2 ** -14, 2 ** -24, -0, Math.fround(0.333251953125)]);
});

test("the parameters of a model follow one another", () => {
  const table = parametersOf(config);
  assert.equal(table.reduce((end, { offset, size }) => (assert.equal(offset, end), end + size), 0), countOf(config));
});

test("what a page cannot train is refused in a sentence", () => {
  assert.equal(refusal(config), null);
  assert.match(refusal({ ...config, n_embd: 4096, n_head: 4 }), /too large/);
  assert.match(refusal({ ...config, block_size: 1e6 }), /too large/);
  assert.match(refusal({ ...config, n_head: 5 }), /multiple of n_head/);
  assert.match(refusal({ ...config, n_layer: NaN }), /n_layer must be a whole number/);
  assert.match(refusal({ ...config, activation: "swiglu" }), /swiglu/);
});

test("a tokenizer orders code points, not code units", () => {
  assert.equal(charactersOf("🦄\uffeeba🦄"), "ab\uffee🦄");
  const tokenizer = new Tokenizer("ab\uffee🦄", "first");
  assert.deepEqual([tokenizer.bos, tokenizer.encode("🦄a")], [0, [4, 1]]);
  assert.equal(tokenizer.decode([4, 0, 1]), "🦄a");
  assert.throws(() => tokenizer.encode("c"), /“c”/);
});

test("bytes become characters when they are complete", () => {
  const tokenizer = new ByteTokenizer("last");
  const ids = tokenizer.encode("é🦄");
  const decode = tokenizer.decoder();
  assert.deepEqual(ids.map(decode), ["", "é", "", "", "", "🦄"]);
  assert.equal(decode(tokenizer.bos), "");
  assert.equal(tokenizer.decode(ids), "é🦄");
});

test("what cannot be seen has a sign", () => {
  assert.deepEqual([" ", "\n", "\0", "\u2028", "a", "🦄"].map(visible), ["␣", "⏎", "U+0000", "U+2028", "a", "🦄"]);
});

test("softmax, its limit at temperature 0, and what is not finite", () => {
  const p = softmax([1, 3, 3], 0.5);
  assert.ok(Math.abs(p[1] - 1 / (2 + Math.exp(-4))) < 1e-15 && p[1] === p[2]);
  assert.deepEqual(Array.from(softmax([1, 3, 3], 0)), [0, 1, 0]);
  assert.throws(() => softmax([NaN, Infinity]), /not finite/);
});

test("top-k and top-p keep the likeliest", () => {
  const weights = Float64Array.of(0.1, 0.4, 0.2, 0.3);
  assert.deepEqual(ranking(weights), [1, 3, 2, 0]);
  assert.deepEqual(Array.from(limited(weights, 2)), [0, 0.4, 0, 0.3]);
  assert.deepEqual(Array.from(limited(weights, 0, 0.41)), [0, 0.4, 0, 0.3]);
  assert.deepEqual(Array.from(limited(weights, 0, 0.1)), [0, 0.4, 0, 0]);
  assert.equal(limited(weights, 0, 1), weights);
});

test("a full window keeps its last half", () => {
  const read = [];
  const reader = new Reader({ config: { block_size: 4 }, decode: (token, position) => read.push([token, position]) });
  reader.begin([9, 1, 2, 3, 4]);
  assert.deepEqual(reader.window, [1, 2, 3, 4]);
  reader.read(5);
  assert.deepEqual(reader.window, [3, 4, 5]);
  assert.deepEqual(read.slice(-3), [[3, 0], [4, 1], [5, 2]]);
});

test("a text begins with bos, one long text with a new line", () => {
  const tokenizer = new Tokenizer("\nab");
  assert.deepEqual(beginning(tokenizer, "ab", false), [3, 1, 2]);
  assert.deepEqual(beginning(tokenizer, "ab", true), [1, 2]);
  assert.deepEqual(beginning(tokenizer, "", true), [0]);
  assert.deepEqual(beginning(new Tokenizer("ab"), "", true), [2]);
});

test("documents are lines without the blanks around them", () => {
  assert.deepEqual(documentsOf(" anna \r\n\n\u2003bob\u2028 bo\n\x1f\n", "lines"), ["anna", "bob\u2028 bo"]);
  assert.deepEqual(documentsOf("\ufeffa\n", "lines"), ["\ufeffa"]);
  assert.deepEqual(documentsOf("a\n b\n", "stream"), ["a\n b\n"]);
});

test("names are documents, a play is one text", () => {
  assert.equal(looksLikeStream("anna\nbob\n".repeat(50), 16), false);
  assert.equal(looksLikeStream("ROMEO:\nAlas, and neither,\n\n".repeat(50), 64), true);
});

test("two axes of most variance", () => {
  const found = principalAxes(Array.from({ length: 40 }, (_, i) => [Math.sin(i), 9 * Math.cos(i), 0.1]));
  const spread = (axis) => found.reduce((sum, point) => sum + point[axis] ** 2, 0);
  assert.ok(spread(0) > 50 * spread(1) && spread(1) > 1);
});

test("numbers are short", () => {
  assert.deepEqual([0.5, 0.0996, 0.05, 0.0001].map(percent), ["50 %", "10 %", "5.0 %", "< 0.1 %"]);
  assert.deepEqual([0, 1.5, 0.01234, 1e-6, 123456].map(short), ["0", "1.500", "0.0123", "1.0e-6", "1.2e+5"]);
});
