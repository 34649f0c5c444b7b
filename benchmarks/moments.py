"""Seconds for the second moments: one text at a time through the whole model, by the library, and from disk.

python -m benchmarks.moments [tokens]
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fleke_lib.edit import second_moments
from fleke_lib.edit.moments import sample_text
from fleke_lib.model import load_model, record


def main(tokens: int) -> None:
    lm = load_model()
    layers = lm.preset.layers
    print(f"{lm}, {torch.get_num_threads()} threads; layers {[*layers]}, {tokens} tokens")
    with TemporaryDirectory() as folder:
        plain_seconds, plain = timed(lambda: one_by_one(lm, layers, tokens))
        fresh_seconds, fresh = timed(lambda: second_moments(lm, tokens=tokens, folder=Path(folder)))
        kept_seconds, _ = timed(lambda: second_moments(lm, tokens=tokens, folder=Path(folder)))
    apart = max(float((fresh[layer] - plain[layer]).norm() / plain[layer].norm()) for layer in layers)
    print(f"one by one {plain_seconds:7.1f} s\nlibrary    {fresh_seconds:7.1f} s\nfrom disk  {kept_seconds:7.1f} s")
    print(f"ratios: library {plain_seconds / fresh_seconds:.1f}, from disk {fresh_seconds / kept_seconds:.1f}")
    print(f"relative distance between the two results {apart:.1e}")


@torch.no_grad()
def one_by_one(lm, layers, tokens: int) -> dict:
    """C from full forward passes, one window of 128 tokens after another."""
    total, left = {layer: torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64) for layer in layers}, tokens
    for text in sample_text():
        for window in lm.tokenizer(text, return_tensors="pt").input_ids.split(128, dim=1):
            window = window[:, :left]
            if window.numel():
                with record(inputs={layer: lm.projection(layer) for layer in layers}) as keys:
                    lm.model(window)
                for layer in layers:
                    k = keys[layer][0].double()
                    total[layer] += k.T @ k
                left -= window.numel()
    return {layer: moment / tokens for layer, moment in total.items()}


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
