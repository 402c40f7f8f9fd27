"""Train a GPT on the built-in names with PyTorch's loop, and sample from it with microgpt_fast.

python train.py [steps]
"""

import sys

import torch

import microgpt_fast
from microgpt_fast.torch import GPT, AdamW


def packed(corpus, documents, block_size):
    """Documents end to end: tokens and targets [N], and where each document begins, cu_seqlens [B + 1]."""
    texts = [corpus.tokens[corpus.offsets[d] : corpus.offsets[d + 1]][: block_size + 1] for d in documents]
    texts = [torch.from_numpy(text.astype("int32")) for text in texts]
    lengths = torch.tensor([0, *(len(text) - 1 for text in texts)])
    inputs, targets = (torch.cat([text[part] for text in texts]) for part in (slice(-1), slice(1, None)))
    return inputs, targets, lengths.cumsum(0)


def main(steps=300):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    corpus = microgpt_fast.load_corpus()
    config = microgpt_fast.GPTConfig(corpus.tokenizer.vocab_size, n_layer=2, n_embd=32, block_size=16)
    model = GPT(config, corpus.tokenizer)
    optimizer = AdamW(model.parameters(), lr=0.01)
    for step in range(1, steps + 1):
        documents = torch.randint(len(corpus), (32,))
        loss = model.loss(*packed(corpus, documents, config.block_size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step == steps:
            print(f"step {step}: loss {loss.item():.4f}")
    for name in microgpt_fast.generate(model.to_model(), 5, seed=1):
        print(name)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
