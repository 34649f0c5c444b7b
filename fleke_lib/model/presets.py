"""Hyperparameters of each method for each model, with their source.

A preset is published, measured in this repository, or generic; its `source` says which. If no hyperparameters of a
method are published for a model, the preset has None, and the method asks the user for them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

Size = tuple[str, int, int, int]  # family (the configuration's model type), layers, d_model, d_mlp


@dataclass(frozen=True)
class NormalisedGradient:
    """Gradient descent with steps of a fixed length, over some of the contexts at a time.

    first: length of the first step, in units of the norm of h (PMET: of each output).
    decay: length of each later step over that of the one before.
    prefixes: prefixed contexts in each evaluation of the loss, beside the bare prompt; they are taken in turn. None for
        all of them.
    """

    first: float = 0.3
    decay: float = 0.8
    prefixes: int | None = 1


@dataclass(frozen=True)
class Hparams:
    """Hyperparameters of a locate-then-edit method; the symbols are those of `fleke_lib.mkv` and `fleke_lib.edit`.

    layers: edited layers l1 < ... < L, counted from 0.
    steps: maximal number of evaluations of the MKV's loss; there is one step fewer.
    lr: Adam's learning rate; None for a fixed multiple of the median absolute entry of h (PMET: of each output).
    clamp: maximal norm of delta, in units of the norm of h.
    weight_decay: factor of |delta| / |h|^2 in the loss.
    kl_factor: factor of the KL divergence at "{subject} is a" in the loss.
    stop: a fact has converged when its loss is below this.
    lam: lambda, the weight of the second moment C against the new keys.
    optimiser: what minimises the MKV's loss; None for Adam with `lr`, as published.
    """

    layers: tuple[int, ...]
    steps: int = 25
    lr: float | None = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop: float = 0.05
    lam: float = 15000.0
    optimiser: NormalisedGradient | None = None

    def __post_init__(self):
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers is {self.layers}: give one or more different layers in increasing order.")

    @property
    def layer(self) -> int:
        """L, the last edited layer."""
        return self.layers[-1]

    def fast(self) -> "Hparams":
        """The same objective in at most eight steps along the gradient, each over two contexts.

        Not published: measured here on the default model, for MEMIT's MKVs (`benchmarks/mkv.py`).
        """
        return replace(self, optimiser=NormalisedGradient(), steps=9)

    def named(self) -> dict:
        """All hyperparameters by name, for digests; without `optimiser` where it is Adam, as before it was a choice."""
        return {name: value for name, value in asdict(self).items() if name != "optimiser" or value is not None}


@dataclass(frozen=True)
class AlphaEditHparams(Hparams):
    """Additional hyperparameters of AlphaEdit.

    nullspace: eigenvectors of C with an eigenvalue below this count as unused directions; None for a fixed fraction of
        C's mean eigenvalue.
    ridge: weight of |dW|^2 (`L2` in the public code).
    """

    nullspace: float | None = 2e-2
    ridge: float = 10.0


@dataclass(frozen=True)
class FinetuneHparams:
    """Fine-tuning of one layer's projection (FT-L, LocFT-BF).

    layer: the layer to train. steps: maximal number of passes over the facts. lr: Adam's learning rate.
    bound: |dW| <= bound for every entry; None for no bound. batch: facts per gradient step.
    """

    layer: int
    steps: int = 25
    lr: float = 5e-4
    bound: float | None = 5e-4
    batch: int = 64


@dataclass(frozen=True)
class Preset:
    """One model's hyperparameters for every method.

    size: of the published model; None in a generic preset.
    weights: if any, the preset is for weights with one of these digests (`fleke_lib.model.digest.weights_digest`).
    """

    model: str
    source: str
    memit: Hparams
    rome: Hparams
    finetune: FinetuneHparams
    pmet: Hparams | None = None
    alphaedit: AlphaEditHparams | None = None
    locft_bf: FinetuneHparams | None = None
    contexts: tuple[str, ...] | None = None
    size: Size | None = None
    weights: tuple[str, ...] = ()
    trajectory_lam: float | None = None  # lambda of the closed form, where it was measured; see edit.closed_form

    @property
    def layers(self) -> tuple[int, ...]:
        """The edit layers l1 < ... < L."""
        return self.memit.layers


def preset_for(name: str, size: Size, digest: Callable[[], str]) -> Preset:
    """The preset for a model, or a generic one; the preset's `source` says which and why.

    A preset that is for certain weights applies to them under any name. Another applies to a model of its name, of
    which only the last part of a path counts, and of its size.

    Args:
        digest: returns the digest of the model's weights; called if a preset is for certain weights of this size.
    """
    for preset in PRESETS.values():
        if preset.weights and preset.size == size and digest() in preset.weights:
            return preset
    named = PRESETS.get(Path(name).name.lower().replace("meta-llama-3", "llama-3"))
    if named is None:
        return generic_preset(name, size[1])
    if named.size == size and not named.weights:
        return named
    what = "weights" if named.size == size else "configuration"
    generic = generic_preset(name, size[1])
    return replace(generic, source=f"{generic.source}, which does not have the {what} of {named.model}")


def chosen(hparams: Hparams | None, preset: Preset, method: str) -> Hparams:
    """The given hyperparameters, or else the preset's for this method.

    Raises:
        ValueError: `hparams` is None and the preset has none for this method.
    """
    hparams = hparams or getattr(preset, method)
    if hparams is None:
        raise ValueError(f"no published {method} hyperparameters for {preset.model}: give hparams.")
    return hparams


def generic_preset(name: str, n_layers: int) -> Preset:
    """Five layers that end just before the middle, where the traced models store facts. Nothing is tuned.

    The size of states and keys differs between models by orders of magnitude, so learning rates and AlphaEdit's
    threshold are relative to them.
    """
    last = max(0, n_layers // 2 - 1)
    layers = tuple(range(max(0, last - 4), last + 1))
    preset = _measured(name, "generic: not tuned for this model", layers, lam=100.0)
    return replace(
        preset,
        memit=replace(preset.memit, lr=None),
        rome=replace(preset.rome, lr=None),
        pmet=replace(preset.pmet, lr=None),
        alphaedit=replace(preset.alphaedit, lr=None, nullspace=None),
        locft_bf=FinetuneHparams(11 * n_layers // 16, bound=None, batch=100),  # as deep as published for Llama-3-8B
    )


def _measured(model: str, source: str, layers: tuple[int, ...], lam: float) -> Preset:
    memit = Hparams(layers, lam=lam)
    return Preset(
        model,
        source,
        memit=memit,
        rome=Hparams((layers[-1],), clamp=4.0, lam=lam),  # clamp as published for GPT-2 XL and GPT-J
        pmet=replace(memit, kl_factor=1.0, lr=0.2, steps=30),
        alphaedit=AlphaEditHparams(layers),
        finetune=FinetuneHparams(layers[-1]),
    )


def _published(model: str, source: str, memit: Hparams, rome: Hparams, **others) -> Preset:
    return Preset(model, source, memit=memit, rome=rome, **others)


PRESETS = {
    "smollm2-135m-instruct": replace(
        _measured(
            "SmolLM2-135M-Instruct",
            # Causal traces show that the MLPs of layers 0 to 13 matter at the subject's last token. Among the layer
            # sets that end there, this one had the best specificity at equal paraphrase, on atlas facts 0 to 110.
            "causal traces and a search on 111 facts in this repository",
            (4, 6, 8, 10, 12, 14),
            lam=1000.0,
        ),
        size=("llama", 30, 576, 1536),
        weights=(  # dequantised from the 4-bit file and loaded in float32, bfloat16 and float16
            "c5596cda3168ae6ec721db0afda61f501fa1f8dfdebe78c0c12e4bc1621f4883",
            "e450f36b467b31857927c1b3468eff435ba501758d7041dda934b0fbb0cf4cf8",
            "d3f44979f9ba48293b24b0c8edec36171385d1eeef066b1026675e70862731df",
        ),
        # The best score of 100, 300, 1000 and 3000 on 111 atlas facts that no table of a federation uses;
        # `edit.disturbance` takes a greater one for dense edits. On 480 other facts, with coupling 0, 100 gives a score
        # of 0.908 and a top-1 of 0.906; 300 gives 0.899 and 0.919.
        trajectory_lam=100.0,
        # As published, with smaller batches: on the 111 facts a batch of 100 (50 steps) gives a score of 0.33 and a
        # top-1 of 0.05, a batch of 16 (175 steps) 0.50 and 0.44. On 990 CounterFact records from 1000 on, of which 64
        # were asked, eight layers from 8 to 29 with rates of 2e-4 and 5e-4 gave scores from 0.36 to 0.57: layer 22
        # with 5e-4 has 0.52, layer 8 0.57 at 2.8 times its perplexity.
        locft_bf=FinetuneHparams(22, bound=None, batch=16),
        contexts=(  # write_contexts(lm, seed=1), stored so that shipped MKVs stay valid on every machine
            "",
            "The company's mission to create an innovative, sustainable future. ",
            "Therefore, the total cost can be calculated using the sum. ",
            "Because of the need for a new and improved product to. ",
            "I have no experience working with data and I don’t. ",
            "You can't just leave your car at the local garage. ",
        ),
    ),
    "gpt2-xl": _published(
        "gpt2-xl",
        "kmeng01/memit hparams (MEMIT, ROME, FT); jianghoucheng/AlphaEdit hparams",
        size=("gpt2", 48, 1600, 6400),
        memit=Hparams((13, 14, 15, 16, 17), steps=20, lam=20000.0),
        rome=Hparams((17,), steps=20, clamp=4.0),
        alphaedit=AlphaEditHparams((13, 14, 15, 16, 17), steps=20, lam=20000.0),
        finetune=FinetuneHparams(0, bound=5e-4),
    ),
    "gpt-j-6b": _published(
        "gpt-j-6b",
        "kmeng01/memit hparams (MEMIT, ROME, FT); xpq-tech/PMET hparams; jianghoucheng/AlphaEdit hparams",
        size=("gptj", 28, 4096, 16384),
        memit=Hparams((3, 4, 5, 6, 7, 8)),
        rome=Hparams((5,), steps=20, clamp=4.0),
        pmet=Hparams((3, 4, 5, 6, 7, 8), steps=30, lr=0.2, kl_factor=1.0, lam=6000.0),
        alphaedit=AlphaEditHparams((3, 4, 5, 6, 7, 8)),
        finetune=FinetuneHparams(0, bound=5e-5),
    ),
    "gpt-neox-20b": _published(
        "gpt-neox-20b",
        "zongkaiz/FLEKE hparams (MEMIT, PMET); kmeng01/memit hparams (ROME); fine-tuning as for GPT-J",
        size=("gpt_neox", 44, 6144, 24576),
        memit=Hparams((6, 7, 8, 9, 10), steps=20, clamp=0.8, lam=6000.0),
        rome=Hparams((15,), steps=20, clamp=4.0),
        pmet=Hparams((6, 7, 8, 9, 10), steps=30, clamp=0.8, kl_factor=0.8),
        finetune=FinetuneHparams(0, bound=5e-5),
    ),
    "llama-3-8b": _published(
        "Llama-3-8B",
        "jianghoucheng/AlphaEdit hparams (MEMIT, AlphaEdit, ROME, FT); ICT-STAR/LocFT hparams (LocFT-BF)",
        size=("llama", 32, 4096, 14336),
        memit=Hparams((4, 5, 6, 7, 8), lr=0.1),
        rome=Hparams((5,), clamp=4.0, weight_decay=1e-3),
        alphaedit=AlphaEditHparams((4, 5, 6, 7, 8), lr=0.1),
        finetune=FinetuneHparams(21, bound=None),
        locft_bf=FinetuneHparams(22, bound=None, batch=100),
    ),
}
PRESETS["llama-3-8b-instruct"] = replace(PRESETS["llama-3-8b"], model="Llama-3-8B-Instruct")
