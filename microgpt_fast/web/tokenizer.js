// Text to token ids and back, as data/tokenizer.py does it: by character (code point), or by byte of UTF-8.

export class TextError extends Error {}

export function tokenizerOf({ chars, bytes, bos }) {
  return bytes ? new ByteTokenizer(bos) : new Tokenizer(chars, bos);
}

const byCodePoint = (a, b) => a.codePointAt(0) - b.codePointAt(0);

// The characters of a text in the order of their code points, each once.
export const charactersOf = (text) => [...new Set(text)].sort(byCodePoint).join("");

export class Tokenizer {
  kind = "char";

  constructor(chars, bos = "last") {
    this.chars = chars;
    this.place = bos;
    this.symbols = bos === "last" ? [...chars, ""] : ["", ...chars];
    this.vocab_size = this.symbols.length;
    this.bos = this.symbols.indexOf("");
    this.ids = new Map(this.symbols.map((symbol, id) => [symbol, id]));
  }

  encode(text) {
    return Array.from(text, (char) => {
      const id = this.ids.get(char);
      if (id === undefined) throw new TextError(`The model does not know the character “${char}”.`);
      return id;
    });
  }

  decode(ids) {
    return ids.map((id) => this.symbols[id]).join("");
  }

  decoder() {
    return (id) => this.symbols[id];
  }

  // What stands for a token in a chart.
  label(id) {
    return id === this.bos ? "end" : visible(this.symbols[id]);
  }

  constants() {
    return { chars: this.chars, bos: this.place };
  }
}

export class ByteTokenizer {
  kind = "byte";
  vocab_size = 257;

  constructor(bos = "last") {
    this.place = bos;
    this.bos = bos === "last" ? 256 : 0;
    this.first = bos === "last" ? 0 : 1;
  }

  encode(text) {
    return Array.from(new TextEncoder().encode(text), (byte) => byte + this.first);
  }

  decode(ids) {
    const bytes = ids.filter((id) => id !== this.bos).map((id) => id - this.first);
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
  }

  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => (id === this.bos ? decoder.decode() : decoder.decode(new Uint8Array([id - this.first]), { stream: true }));
  }

  label(id) {
    if (id === this.bos) return "end";
    const byte = id - this.first;
    return byte < 128 ? visible(String.fromCharCode(byte)) : `0x${byte.toString(16)}`;
  }

  constants() {
    return { bytes: true, bos: this.place };
  }
}

// A character as a chart can show it: blanks by their signs, what has no shape by its number.
export function visible(char) {
  const signs = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
  if (char in signs) return signs[char];
  return /[\p{C}\p{Z}]/u.test(char) ? `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` : char;
}
