"""Held-out loss and time of a preset, and of the same training in PyTorch.

    python bench/held_out.py names.txt --preset laptop-10s --time-budget 10 --torch-budget 120 --seeds 5 --threads auto
    python bench/held_out.py tinyshakespeare.txt --preset nanogpt-cpu --learning-rate 1e-3 --seeds 3 --threads 1 2

Data, split, initial weights and batches are the same. With budgets each program measures its speed first and fits the
schedule to the steps that it can take; without, both take the preset's number of steps. Times are of the
steps, ours with the measuring of the speed; validations are left out.
"""

import argparse
from collections import namedtuple
from dataclasses import replace
from time import perf_counter

import numpy as np
from peer import joined, padded
from torch_peer import token_losses

import microgpt_fast as mg
from microgpt_fast.training.schedule import learning_rates
from microgpt_fast.training.validation import mean_loss

CHUNK = 64  # steps whose batches are padded at a time
ROWS = 256  # sequences that a validation looks at in one call
Result = namedtuple("Result", "loss steps seconds")


def ours(data, options):
    """The result of a training here."""
    run = mg.Trainer(data, **options)
    seconds = 0.0
    for event in run.events():
        if isinstance(event, mg.Steps):
            seconds = run.seconds
    return Result(mean_loss(run, run.batches.validation), run.step, seconds)  # of the model that is kept


class TorchTraining:
    """The training that a Trainer describes, in eager PyTorch with fused AdamW."""

    def __init__(self, run, threads):
        import torch

        if threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        self.torch, self.run, self.config, self.step = torch, run, run.config, 0
        tensors = joined(run.model.tensors)
        self.parameters = {name: torch.tensor(value, requires_grad=True) for name, value in tensors.items()}
        self.adam = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=(self.config.beta1, self.config.beta2),
            eps=self.config.eps_adam, weight_decay=self.config.weight_decay, fused=True,
        )  # fmt: skip

    def fit(self, budget):
        """Replace the number of steps by what the budget, in seconds, allows."""
        kept = [parameter.detach().clone() for parameter in self.parameters.values()]
        self.train(20)
        steps, begin = 0, perf_counter()
        while perf_counter() - begin < budget / 40:
            self.train(20)
            steps += 20
        self.config = replace(self.config, num_steps=int(budget * steps / (perf_counter() - begin)))
        with self.torch.no_grad():
            for parameter, value in zip(self.parameters.values(), kept):
                parameter.copy_(value)
        self.adam.state.clear()
        self.step = 0

    def batches(self, starts, lengths, batch_size):
        """(inputs, targets, weights) tensors of consecutive batches."""
        tokens, starts = self.run.corpus.gather(starts, lengths)
        arrays = padded(tokens, starts, lengths, batch_size, self.run.model.config.block_size, np.float32)
        inputs, targets, weights = map(self.torch.from_numpy, arrays[:3])
        for i, longest in enumerate(arrays[3]):
            yield inputs[i, :, :longest].long(), targets[i, :, :longest].long(), weights[i, :, :longest]

    def train(self, count):
        """Take some steps."""
        B, c = self.config.batch_size, self.run.model.config
        rates = learning_rates(self.config, np.arange(self.step, self.step + count))
        sequences = self.run.batches.sequences(self.step * B, count * B)
        for rate, (inputs, targets, weights) in zip(rates, self.batches(*sequences, B)):
            self.adam.param_groups[0]["lr"] = rate
            loss = (token_losses(self.parameters, c, inputs, targets) * weights).sum()
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            if self.config.grad_clip:
                self.torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
            self.adam.step()
        self.step += count

    def validate(self):
        """The validation loss over all that is held out, in nats per token."""
        starts, lengths = self.run.batches.validation
        total = 0.0
        with self.torch.no_grad():
            for first in range(0, len(starts), ROWS):
                part = starts[first : first + ROWS], lengths[first : first + ROWS]
                for inputs, targets, weights in self.batches(*part, len(part[0])):
                    losses = token_losses(self.parameters, self.run.model.config, inputs, targets)
                    total += float(losses[weights > 0].double().sum())
        return total / int(lengths.sum())

    def result(self, budget):
        """Train to the end, within a budget if there is one."""
        if budget:
            self.fit(budget)
        begin = perf_counter()
        while self.step < self.config.num_steps:
            self.train(min(CHUNK, self.config.num_steps - self.step))
        seconds = perf_counter() - begin
        return Result(self.validate(), self.step, seconds)


def main():
    """Compare, seed by seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--preset", default="nanogpt-cpu")
    parser.add_argument("--learning-rate", type=float, help="in place of the preset's")
    parser.add_argument("--time-budget", type=float, help="ours, in seconds")
    parser.add_argument("--torch-budget", type=float, help="PyTorch's, in seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--threads", nargs="+", default=["1"], help="ours and PyTorch's; auto: what each takes by itself"
    )
    options = parser.parse_args()
    chosen = {"preset": options.preset, "eval_interval": 0}
    if options.learning_rate is not None:
        chosen["learning_rate"] = options.learning_rate
    for threads in options.threads:
        chosen["threads"] = None if threads == "auto" else int(threads)
        results = {"microgpt-fast": [], "PyTorch": []}
        for seed in range(1, options.seeds + 1):
            budget = {"time_budget": options.time_budget} if options.time_budget else {}
            results["microgpt-fast"].append(ours(options.data, {**chosen, **budget, "seed": seed}))
            fitted = {"num_steps": 1} if options.torch_budget else {}
            run = mg.Trainer(options.data, **chosen, **fitted, seed=seed)
            results["PyTorch"].append(TorchTraining(run, chosen["threads"]).result(options.torch_budget))
            for who, found in results.items():
                print(
                    f"{threads} threads, seed {seed}, {who}: held-out loss %.4f, %d steps in %.1f s"
                    % found[-1],
                    flush=True,
                )
        for who, found in results.items():
            losses, _, seconds = zip(*found)
            spread = f"({min(losses):.4f} to {max(losses):.4f}), median of {np.median(seconds):.1f} s"
            print(f"{threads} threads, {who}: mean held-out loss {np.mean(losses):.4f} {spread}")
        times = [np.median([result.seconds for result in found]) for found in results.values()]
        print(f"{threads} threads: PyTorch takes {times[1] / times[0]:.2f} times as long")


if __name__ == "__main__":
    main()
