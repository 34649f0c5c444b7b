"""What a run will take, counted before it starts.

Multiplications are counted from the architecture's published configuration and from the lengths of the texts, with a
token taken as four characters; bytes from the shapes of what is held. Hours are that many operations at an assumed
speed, from a good one to a poor one, and are no better than that assumption: small batches, disks and Python are in
the range and nowhere else.

    a token through a layer      2 * parameters of the layer
    back through it              as many again; weights have no gradient
    the vocabulary               2 * d_model * vocabulary, where a target's token is asked for
    C, and each solve            2 * tokens * d_mlp^2;  d_mlp^3 / 3 + 4 * facts * d_mlp^2, in float64
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.cost import costs
from fleke_lib.model.language_model import wrap
from fleke_lib.model.presets import Hparams
from fleke_lib.reproduce.papers.presets import PaperPreset

CHARACTERS = 4  # of a token
CONTEXTS, PREFIX, WRITTEN = 6, 11, 16  # prompts of a fact; tokens of a prefix; tokens that free decoding writes
FEWEST = 0.5  # of the allowed Adam steps: the mean where most facts stop early
BATCH = 16  # facts that are optimised side by side
MODELS = 8  # whole passes over all facts: four methods with one model for all, two asked twice
GB = 1e9
# Operations a second, poor and good. Float32 on an A100 peaks at 19.5e12; a core with AVX-512 was measured at 1e11.
DEVICE = {"cuda": (2e12, 10e12), "cpu": (2e10, 8e10)}  # for a CPU: a core
DOUBLE = 0.5  # the share of that speed in float64


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. parameters: of all; layer: of one layer; the rest in numbers."""

    parameters: int
    layer: int
    n_layers: int
    d_model: int
    d_mlp: int
    vocabulary: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Shape":
        """Counted on a model without storage."""
        with torch.device("meta"):
            lm = wrap(AutoModelForCausalLM.from_config(config), tokenizer=None)
        layer = sum(weight.numel() for weight in lm.layers[0].parameters())
        whole = sum(weight.numel() for weight in lm.model.parameters())
        return cls(whole, layer, lm.n_layers, lm.d_model, lm.d_mlp, len(lm.embeddings.weight))


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a fact.

    before: up to the subject's last one. after: from there on, with the target. target: of the target.
    asked: of all prompts with their answers. answers: of the answers alone.
    """

    before: float
    after: float
    target: float
    asked: float
    answers: float

    @classmethod
    def of(cls, facts: Sequence[Fact]) -> "Lengths":
        def tokens(letters) -> float:
            return fmean(letters) / CHARACTERS + 1

        ends = [fact.subject_span[1] for fact in facts]
        prompts = [[f.question, *f.paraphrases, *(n.prompt for n in f.neighbours)] for f in facts]
        targets = [len(f.target_new) + len(f.target_true) for f in facts]
        return cls(
            before=tokens(ends),
            after=tokens(len(f.question) + len(f.target_new) - end for f, end in zip(facts, ends, strict=True)),
            target=tokens(len(fact.target_new) for fact in facts),
            asked=tokens(sum(map(len, own)) + len(own) * t for own, t in zip(prompts, targets, strict=True)),
            answers=tokens(len(own) * t for own, t in zip(prompts, targets, strict=True)),
        )


@dataclass(frozen=True)
class CostEstimate:
    """steps: least and most hours of each. The rest in 10^9 bytes; where a GPU is used, `memory` is on it."""

    run: str
    facts: int
    device: str
    speed: tuple[float, float]
    steps: dict[str, tuple[float, float]]
    memory: dict[str, float]
    host: dict[str, float]
    disk: dict[str, float]

    @property
    def hours(self) -> tuple[float, float]:
        least, most = zip(*self.steps.values(), strict=True)
        return sum(least), sum(most)

    def as_dict(self) -> dict:
        return {**asdict(self), "hours": self.hours}

    def __str__(self) -> str:
        low, high = self.hours
        lines = [
            f"{self.run}, {self.facts} facts on {self.device}: {_span(low, high)}",
            f"(counted: 2 operations a token and parameter forwards, as many backwards, {CHARACTERS} characters a "
            f"token; assumed: {self.speed[1]:.2g} to {self.speed[0]:.2g} operations a second, half of it in float64)",
            *(f"  {step:<24} {_span(*hours)}" for step, hours in self.steps.items()),
        ]
        places = {"memory of the device": self.memory, "memory of the host": self.host, "disk": self.disk}
        for name, parts in places.items():
            said = ", ".join(f"{part} {size:.1f}" for part, size in parts.items() if size >= 0.05)
            if said:
                lines.append(f"{name}: {sum(parts.values()):.1f} GB ({said})")
        return "\n".join(lines)


def estimate(
    recipe: PaperPreset,
    facts: Sequence[Fact],
    n: int,
    *,
    device: str,
    bytes_each: int = 4,
    tokens: int = 50_000,
    flops: float | None = None,
) -> CostEstimate:
    """The cost of a run over `n` facts such as these.

    Args:
        device: "cuda" or "cpu"; anything else counts as a GPU.
        bytes_each: of a weight. tokens: that C is measured on.
        flops: operations a second that the device reaches, where they are known.
    """
    kind = device.partition(":")[0]
    here = torch.get_num_threads()
    low, high = DEVICE.get(kind, DEVICE["cuda"])
    speed = (flops, flops) if flops else (low * here, high * here) if kind == "cpu" else (low, high)
    shape, texts, hparams = Shape.of(recipe.config), Lengths.of(facts), recipe.memit
    work = {step: (counted, speed) for step, counted in _passes(shape, texts, hparams, n, tokens).items()}
    work["solves"] = ((_solves(shape, hparams, n, recipe.clients) / DOUBLE,) * 2, speed)
    steps = {step: (least / fast / 3600, most / slow / 3600) for step, ((least, most), (slow, fast)) in work.items()}
    packet = costs(facts, shape.d_model, shape.d_mlp, hparams.layers)["packet"]
    memory = _memory(shape, texts, hparams, n, bytes_each)
    host = _host(shape, hparams, n, recipe.clients, packet)
    if kind == "cpu":
        memory, host = {}, memory | host
    disk = _disk(shape, texts, hparams, n, bytes_each, packet)
    return CostEstimate(recipe.name, n, device, speed, steps, memory, host, disk)


def _passes(shape: Shape, texts: Lengths, hparams: Hparams, n: int, tokens: int) -> dict[str, tuple[float, float]]:
    """Operations of what runs the model, least and most."""
    layer, head, width = 2 * shape.layer, 2 * shape.d_model * shape.vocabulary, shape.d_mlp
    last, edited = hparams.layer + 1, len(hparams.layers)
    above, between = shape.n_layers - last, last - hparams.layers[0]
    start = CONTEXTS * (PREFIX + texts.before + texts.after) * shape.n_layers * layer
    step = 2 * ((CONTEXTS * texts.after + 1) * above * layer + (CONTEXTS * texts.target + 1) * head)
    prefix = CONTEXTS * (PREFIX + texts.before) * last * layer
    simulated = (CONTEXTS + edited) * between * layer
    answered = texts.asked * shape.n_layers * layer + texts.answers * head
    written = (texts.before + texts.after + WRITTEN) * shape.n_layers * layer + WRITTEN * head
    gram = 2 * edited * width**2
    least, most = FEWEST * (hparams.steps - 1), hparams.steps - 1
    return {
        "second moments": (tokens * (last * layer + gram),) * 2,
        "MKVs": (n * (start + least * step), n * (start + most * step)),
        "trajectories": (n * (prefix + simulated),) * 2,
        "MEMIT in one place": (n * 2 * prefix,) * 2,
        "answers": (0.6 * MODELS * n * answered, MODELS * n * answered),  # what texts share runs once
        "free decoding": (MODELS * n * written,) * 2,
    }


def _solves(shape: Shape, hparams: Hparams, n: int, clients: int) -> float:
    """Operations of all edits: MEMIT, everybody's, each client's by the published rule, and each alone, twice."""
    width, each = shape.d_mlp, n / clients

    def one(rows: float, facts: float) -> float:
        return width**3 / 3 + 2 * rows * width**2 + 2 * min(facts, shape.d_model) * width**2

    alone = one(CONTEXTS * each, each)
    return len(hparams.layers) * (one(n, n) + 2 * n * width**2 + (1 + clients) * one(n, n) + 2 * clients * alone)


def _memory(shape: Shape, texts: Lengths, hparams: Hparams, n: int, bytes_each: int) -> dict[str, float]:
    """On the device: while MKVs are optimised, or while MEMIT solves, whichever is more."""
    above = shape.n_layers - hparams.layer - 1
    rows = BATCH * (CONTEXTS + 1)
    states = 12 * shape.d_model + 4 * shape.d_mlp  # of a token in a layer, kept for the way back
    optimising = (
        rows * texts.after * above * states + rows * (PREFIX + texts.before) * shape.n_layers * 2 * shape.d_model
    )
    optimising += 4 * rows * texts.target * shape.vocabulary
    square = shape.d_mlp**2 * 8
    readings = CONTEXTS * n * ((texts.before + 1) * shape.d_model + shape.d_mlp) * bytes_each + 3 * n * shape.d_mlp * 8
    memit = len(hparams.layers) * n * (shape.d_model + shape.d_mlp) * 8  # its factors
    solving = 4 * square + readings + memit
    return {
        "weights": shape.parameters * bytes_each / GB,
        "the larger of optimising and solving": max(optimising * bytes_each, solving) / GB,
    }


def _host(shape: Shape, hparams: Hparams, n: int, clients: int, packet: float) -> dict[str, float]:
    """Beside it: C of all layers, the clients' edits as FedAvg adds them, and every client's copy of every packet."""
    edited, numbers = len(hparams.layers), 2 * shape.d_model
    numbers += len(hparams.layers) * (shape.d_model + 2 * shape.d_mlp)  # a mean key and an axis
    dense = shape.d_model * shape.d_mlp * 8
    return {
        "C": edited * shape.d_mlp**2 * 8 / GB,
        "edits": ((edited + clients + 1) * dense + edited * n * (shape.d_model + shape.d_mlp) * 8) / GB,
        "packets of all clients": clients * n * (packet + 4 * numbers) / GB,
    }


def _disk(shape: Shape, texts: Lengths, hparams: Hparams, n: int, bytes_each: int, packet: float) -> dict[str, float]:
    keys = CONTEXTS + texts.before + texts.after - texts.target  # of contexts, and of the bare prompt's bystanders
    a_fact = 2 * shape.d_model + len(hparams.layers) * (keys * shape.d_mlp + shape.d_model)
    return {
        "weights, once": shape.parameters * bytes_each / GB,
        "C": len(hparams.layers) * shape.d_mlp**2 * 8 / GB,
        "MKVs and trajectories": n * a_fact * 4 / GB,
        "the registry, for a while": n * packet / GB,
    }


def _span(low: float, high: float) -> str:
    """Hours, in the unit that suits them."""
    if high < 0.1:
        return f"{60 * low:.2g} to {60 * high:.2g} minutes"
    return f"{low:.2g} to {high:.2g} hours"
