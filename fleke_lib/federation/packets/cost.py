"""How many bytes one fact takes in each form in which it could be shared."""

from collections.abc import Sequence

import torch

from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.facts.fact import Fact, check_list
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import pack
from fleke_lib.mkv.mkv import Mkv

FORMS = ("text", "MKV alone", "low-rank update", "packet", "weight update")


def costs(
    facts: Sequence[Fact], d_model: int, d_mlp: int, layers: Sequence[int], compression: Compression | None = None
) -> dict[str, float]:
    """Bytes per fact, by form, for a model of this size.

    text            subject, prompt and target, the mean over `facts`
    MKV alone       z in float32
    low-rank update dW of this fact alone: rank one in every edited layer, one byte for each number
    packet          a packet as it is sent, with its head
    weight update   dense dW of every edited layer in float32; this size is the same for one fact and for a thousand
    """
    check_list(facts)
    zeros = Trajectory(
        {layer: torch.zeros(6, d_mlp) for layer in layers},
        {layer: torch.zeros(d_model) for layer in layers},
        "0" * 64,
        torch.zeros(d_model),
        bases={layer: torch.zeros(d_mlp) for layer in layers},
    )
    mkv = Mkv(torch.zeros(d_model), torch.zeros(d_model))
    sent = pack(zeros, mkv, "client 0", 0, {"question": "0" * 64, "answer": "0" * 64}, compression)
    texts = [len((fact.subject + fact.prompt + fact.target_new).encode()) for fact in facts]
    size = torch.float32.itemsize
    thin, update = len(layers) * (d_model + d_mlp), len(layers) * d_model * d_mlp * size
    return dict(zip(FORMS, (sum(texts) / len(texts), d_model * size, thin, len(sent.data), update), strict=True))
