"""One text through the whole model: its token positions, and a module's input or output at one of them."""

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def locate(lm, fact, prefix: str = "") -> tuple[Tensor, int, int]:
    """Ids of prefix, question, blank and target; position of the last subject token; of the first target token."""
    text = f"{prefix}{fact.question} {fact.target_new}"
    coded = lm.tokenizer(text, return_tensors="pt")
    last_of_subject = len(prefix) + fact.subject_span[1] - 1
    first_of_target = len(prefix) + len(fact.question) + 1
    return coded["input_ids"], coded.char_to_token(last_of_subject), coded.char_to_token(first_of_target)


def locate_essence(lm, fact) -> tuple[Tensor, int]:
    """Ids of "{subject} is a" and the position of its last subject token: where MEMIT's divergence is measured."""
    coded = lm.tokenizer(f"{fact.subject} is a", return_tensors="pt")
    return coded["input_ids"], coded.char_to_token(len(fact.subject) - 1)


@contextmanager
def adding(deltas: Mapping[nn.Module, Tensor], position: int):
    """Add a vector to each module's output at one token while the block runs."""

    def hook_for(delta):
        def hook(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            here = (torch.arange(hidden.shape[1]) == position).to(hidden.dtype)
            hidden = hidden + here[None, :, None] * delta
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [module.register_forward_hook(hook_for(delta)) for module, delta in deltas.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def entering(lm, module: nn.Module, fact, prefix: str = "") -> Tensor:
    """A module's input at the last subject token, `(width,)`."""
    return _seen(lm, module, fact, prefix)[0]


@torch.no_grad()
def leaving(lm, module: nn.Module, fact, prefix: str = "") -> Tensor:
    """A module's output at the last subject token, `(width,)`."""
    return _seen(lm, module, fact, prefix)[1]


def _seen(lm, module: nn.Module, fact, prefix: str) -> tuple[Tensor, Tensor]:
    ids, subject, _ = locate(lm, fact, prefix)
    seen = []

    def hook(module, args, output):
        seen.append((args[0], output[0] if isinstance(output, tuple) else output))

    handle = module.register_forward_hook(hook)
    try:
        lm.model(ids)
    finally:
        handle.remove()
    (entered, left), *_ = seen
    return entered[0, subject].clone(), left[0, subject].clone()


def context_keys(lm, fact, contexts, layer: int) -> Tensor:
    """The keys of a fact at a layer for the model's current weights, one row per context: `(contexts, d_mlp)`."""
    return torch.stack([entering(lm, lm.projection(layer), fact, prefix) for prefix in contexts])


def averaged_key(keys: Tensor) -> Tensor:
    """MEMIT's key (`memit/compute_ks.py`): the mean of the bare prompt's key and of the prefixed ones' mean key."""
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2
