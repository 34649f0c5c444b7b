"""Packets of a tiny model whose prompts are known, for attacks that should name them."""

import functools

import torch

from fleke_lib.edit.trajectories import trajectories
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets import Tags, pack
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.activations import rewrite
from fleke_lib.privacy.attacks.public import views
from tests.tiny import tiny

LAYERS = (1, 2)
CONTEXTS = ("", "It was a day. ")
TAGS = Tags(b"the clients' secret")
SUBJECTS = ("France", "Italy", "Japan", "Germany", "Brazil", "Paris", "Hamlet", "Faust", "Microsoft", "Apple", "gold")
TEMPLATES = ("The capital of {} is", "The author of {} was born in", "People there speak of {}, which is called")
TARGETS = ("Rome", "Paris", "Tokyo", "Berlin")


def facts() -> list[Fact]:
    return [
        Fact(subject, template, TARGETS[(i + j) % 4], TARGETS[(i + j + 1) % 4], str(j))
        for j, template in enumerate(TEMPLATES)
        for i, subject in enumerate(SUBJECTS)
    ]


@functools.cache
def published(kind: str = "llama"):
    """A model, facts, their trajectories, MKVs and packets. z is h with a random change a fifth as long."""
    lm, asked = tiny(kind), facts()
    found = views(lm, [fact.prompt.partition("{}")[0] for fact in asked], [fact.subject for fact in asked], LAYERS)
    noise = torch.randn(found.h.shape, generator=torch.Generator().manual_seed(7))
    change = 0.2 * noise * found.h.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    mkvs = [Mkv(h + d, h) for h, d in zip(found.h, change, strict=True)]
    paths = trajectories(lm, asked, mkvs, CONTEXTS, LAYERS)
    tags = [{"question": TAGS.question(fact), "answer": TAGS.answer(fact)} for fact in asked]
    packets = [pack(path, mkv, "ada", 0, tag) for path, mkv, tag in zip(paths, mkvs, tags, strict=True)]
    return lm, asked, paths, mkvs, packets


@torch.no_grad()
def continued_slowly(lm, text: str, word: str, layer: int, state: torch.Tensor) -> torch.Tensor:
    """log P after `text` by one ordinary pass, in which a hook puts `state` at the last token of `word`."""
    ids = torch.tensor([lm.tokenizer(text).input_ids])
    place = len(lm.tokenizer(text[: text.index(word) + len(word)]).input_ids) - 1

    def change(hidden):
        changed = hidden.clone()
        changed[0, place] = state
        return changed

    with rewrite({lm.layers[layer]: change}):
        return lm.model(input_ids=ids).logits[0, -1].log_softmax(-1)
