"""Facts, contexts, hyperparameters and second moments that the editing tests share."""

import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.presets import Hparams
from tests.textbook.reading import leaving, locate
from tests.tiny import TEXT

# Subjects at the start, in the middle and at the end; one and several tokens; letters that are several bytes.
FACTS = (
    Fact("France", "The capital of {} is", "Rome", "Paris"),
    Fact("LeBron James", "{} plays the sport of", "football", "basketball"),
    Fact("São Paulo", "People there, in {}, speak the language", "German", "Portuguese"),
)
# A random tiny model hardly attends, so that only a prompt that ends in its subject can be made to give an answer.
ANSWERABLE = (("Brazil", "What is the language of {}"), ("Faust", "The author of {}"), ("Microsoft", "Those of {}"))
CONTEXTS = ("", "Water is made of hydrogen. ", "The city of Ulm, and it was given. ")
HPARAMS = Hparams(layers=(1, 2), steps=10, lam=1.0)
STRONG = Hparams(layers=(1, 2), steps=40, clamp=4.0, kl_factor=0.0, lam=0.01)


def plain_moments(lm, layers) -> dict[int, torch.Tensor]:
    """Second moments of a model's keys over the lines of `TEXT`."""
    return {layer: plain_moment(lm, TEXT.splitlines(), layer) for layer in layers}


def random_mkvs(lm, facts, module, seed: int = 0) -> list[Mkv]:
    """MKVs half as long as what leaves `module`, in random directions: to compare writes "given the same z"."""
    generator = torch.Generator().manual_seed(seed)
    starts = [leaving(lm, module, fact) for fact in facts]
    noise = [torch.randn(len(h), generator=generator) for h in starts]
    return [Mkv(z=h + 0.5 * h.norm() * r / r.norm(), h=h) for h, r in zip(starts, noise, strict=True)]


@torch.no_grad()
def plain_moment(lm, texts, layer: int) -> torch.Tensor:
    """E[k k^T] over all tokens of some texts, in float64: `rome/layer_stats.py` without batches."""
    total, count = torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64), 0
    handle = lm.projection(layer).register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    for text in texts:
        seen = []
        lm.model(lm.tokenizer(text, return_tensors="pt")["input_ids"])
        total += seen[0].T @ seen[0]
        count += len(seen[0])
    handle.remove()
    return total / count


@torch.no_grad()
def answered(lm) -> list[Fact]:
    """Facts that a tiny model can learn: the new target is the second most probable of the one-token words."""
    facts = []
    for subject, prompt in ANSWERABLE:
        question = prompt.replace("{}", subject)
        ids = lm.tokenizer(question)["input_ids"]
        continued = {word: lm.tokenizer(f"{question} {word}")["input_ids"] for word in sorted(set(TEXT.split()))}
        single = {word: longer[-1] for word, longer in continued.items() if longer[:-1] == ids}
        logits = lm.model(torch.tensor([ids])).logits[0, -1]
        first, second, *_ = sorted(single, key=lambda word: -logits[single[word]])
        facts.append(Fact(subject, prompt, second, first))
    return facts


@torch.no_grad()
def says(lm, fact, prefix: str = "") -> bool:
    """Every token of the new target is the most probable one."""
    ids, _, target = locate(lm, fact, prefix)
    return bool((lm.model(ids).logits[0, target - 1 : -1].argmax(-1) == ids[0, target:]).all())


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in lm.model.state_dict().items()}


def same_weights(lm, before: dict[str, torch.Tensor]) -> bool:
    """Every weight is bit for bit what it was."""
    now = lm.model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], value) for name, value in before.items())


def relative(found, wanted) -> float:
    """|found - wanted| / |wanted|."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def cosine(one, other) -> float:
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))
