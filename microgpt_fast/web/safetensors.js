// A trained model as the file that microgpt_fast.load reads.

import { crc32 } from "./bytes.js";

// params: Float32Array; returns the file's bytes
export function safetensors(model, tokenizer, options) {
  const { n_layer, n_embd, n_head, block_size, vocab_size, activation } = model.config;
  const { num_steps, learning_rate, beta1, beta2, eps_adam, seed, data_mode, bos = "last" } = options;
  const trained = { num_steps, learning_rate, beta1, beta2, eps_adam, seed, data_mode, bos, dtype: "float32" };
  const metadata = {
    format: "microgpt_fast",
    version: "1",
    config: JSON.stringify({ vocab_size, n_layer, n_embd, n_head, block_size, activation }),
    tokenizer: JSON.stringify(tokenizer.constants()),
    train_config: JSON.stringify(trained),
  };
  const weights = model.params.view;
  const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
  const text = new TextEncoder().encode(metadata.config + metadata.tokenizer + metadata.train_config);
  metadata.crc32 = String(crc32(bytes, crc32(text)));
  const header = { __metadata__: metadata };
  for (const { name, rows, columns, offset, size } of model.table) {
    header[name] = { dtype: "F32", shape: [rows, columns], data_offsets: [4 * offset, 4 * (offset + size)] };
  }
  let head = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(Math.ceil(head.length / 8) * 8).fill(32);
  padded.set(head);
  const file = new Uint8Array(8 + padded.length + bytes.length);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded.length), true);
  file.set(padded, 8);
  file.set(bytes, 8 + padded.length);
  return file;
}
