"""Seconds and bytes of the closed form by the number of facts, on packets of random vectors.

python -m benchmarks.solve [--facts 100 1000 10000] [--layers 6] [--d-model 576] [--d-mlp 1536] [--threads 2]

    packets   bytes of all packets, as they are sent
    pack      seconds to make one of them
    coupled   seconds to solve the edit from them, layer by layer (`edit.coupled`)
    recorded  the same with coupling 0, and the ratio of the two

The default sizes are those of SmolLM2-135M. Beyond 500 facts packets are repeated, which changes no time.
"""

import argparse
import time
from itertools import cycle, islice

import torch

from fleke_lib.edit.closed_form import trajectory
from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.mkv.mkv import Mkv

CONTEXTS, WORDS, DIFFERENT = 6, 6, 500


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--facts", type=int, nargs="+", default=[100, 1000, 10_000])
    for name, value in {"layers": 6, "d-model": 576, "d-mlp": 1536, "threads": 2}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    draw = torch.Generator().manual_seed(0)
    layers = range(chosen.layers)
    begin = time.perf_counter()
    packets = [packet_of(draw, layers, chosen.d_model, chosen.d_mlp) for _ in range(min(DIFFERENT, max(chosen.facts)))]
    each = (time.perf_counter() - begin) / len(packets)
    moments = {layer: torch.eye(chosen.d_mlp, dtype=torch.float64) for layer in layers}
    print(f"{len(packets[0].data):,} bytes a packet, {each:.3f} s to make it; {chosen.threads} threads")
    print(f"{'facts':>7}{'packets':>12}{'coupled':>12}{'recorded':>12}{'ratio':>8}")
    for facts in chosen.facts:
        held = list(islice(cycle(packets), facts))
        seconds = []
        for coupling in (1.0, 0.0):
            begin = time.perf_counter()
            trajectory(held, moments, 100.0, coupling=coupling)
            seconds.append(time.perf_counter() - begin)
        size = sum(len(packet.data) for packet in held) / 1e6
        print(f"{facts:>7}{size:>9.1f} MB{seconds[0]:>10.2f} s{seconds[1]:>10.2f} s{seconds[0] / seconds[1]:>8.2f}")


def packet_of(draw: torch.Generator, layers: range, d_model: int, d_mlp: int) -> Packet:
    def some(*shape: int) -> dict[int, torch.Tensor]:
        return {layer: torch.randn(*shape, generator=draw) for layer in layers}

    h = torch.randn(d_model, generator=draw)
    residual = torch.randn(d_model, generator=draw)
    path = Trajectory(some(CONTEXTS, d_mlp), some(d_model), "0" * 64, residual, some(WORDS, d_mlp), some(d_mlp))
    return pack(path, Mkv(h + residual, h), "client 0", 0, {"question": "0" * 64, "answer": "0" * 64})


if __name__ == "__main__":
    main()
