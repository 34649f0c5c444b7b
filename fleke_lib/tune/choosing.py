"""Layers, clamp and both lambdas of a model, chosen one after the other on facts that the model knows.

    evidence   causal traces: the layers whose MLPs the facts' answers depend on (`locate.critical_layers`)
    layers     sets of five adjacent or six alternate layers that end at the first, the middle or the last of those
    clamp      |delta| <= clamp |h|, with the best layers, unless all deltas are far shorter than that
    lambda     of MEMIT, and of the closed form, with the best layers and clamp

Each choice is the one whose edit of all tried facts has the best score: the harmonic mean of efficacy, paraphrase and
specificity. Earlier choices are not tried again, and the first of equals is taken. The facts that were tried must not
be reported afterwards: the choice fits them.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from random import Random
from typing import TypeVar

from fleke_lib.edit import closed_form
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.memit import memit
from fleke_lib.edit.moments import second_moments
from fleke_lib.edit.trajectories import shareable, trajectories
from fleke_lib.evaluation.known import known_facts
from fleke_lib.evaluation.metrics import evaluate, prepare_evaluation
from fleke_lib.evaluation.results import THREE, Evaluation
from fleke_lib.facts.contexts import contexts_for
from fleke_lib.facts.fact import Fact
from fleke_lib.locate.averages import critical_layers, mediated
from fleke_lib.locate.tracing import causal_trace
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.presets import Hparams, Preset, generic_preset

LEAST = 8  # facts that the model must know
CLAMPS = (0.75, 0.5, 1.0)
SLACK = 4  # times as long as the longest delta: a clamp that limits nothing
LAMBDAS = (100.0, 30.0, 300.0, 1000.0, 3000.0, 10000.0)
SHAPES = ((5, 1), (6, 2))  # how many layers, and their distance

Layers = tuple[int, ...]
Value = TypeVar("Value", Layers, float)


@dataclass(frozen=True)
class Trial:
    """One value that was tried for one choice, the evaluation of the edit, and the seconds that it took."""

    choice: str
    value: Layers | float
    found: Evaluation = field(repr=False)
    seconds: float

    def __str__(self) -> str:
        three = ", ".join(f"{name} {getattr(self.found, name):.3f}" for name in THREE)
        value = " ".join(map(str, self.value)) if isinstance(self.value, tuple) else f"{self.value:g}"
        return f"{self.choice:<26}{value:<20}score {self.found.score:.3f} ({three})  {self.seconds:6.1f} s"


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and from what.

    preset: for the model's weights as they are. known: the number of facts that the model knows, of `asked`.
    critical: the layers that the traces name; empty if they name none. trials: everything that was tried, in order.
    tracing: seconds of the traces.
    """

    preset: Preset
    known: int
    asked: int
    critical: Layers
    trials: tuple[Trial, ...]
    tracing: float

    @property
    def seconds(self) -> float:
        """What it cost in all."""
        return self.tracing + sum(trial.seconds for trial in self.trials)


def choose(
    lm: LanguageModel,
    facts: Sequence[Fact],
    *,
    traced: int = 16,
    tried: int = 32,
    seed: int = 0,
    fast: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Choose layers, clamp and lambdas for a model, as the module's text describes.

    MKVs are stored like all others, so an interrupted call continues where it was.

    Args:
        facts: with paraphrases and neighbours; those that the model does not know are left out.
        traced, tried: how many of the known facts to trace, and to edit.
        seed: of the sample of known facts.
        fast: optimise MKVs by `Hparams.fast`, here and in the preset: at most eight steps over two contexts each. For
            models whose MKVs take long, such as those with a large vocabulary.
        told: called with each line of the account, as soon as it is known.

    Raises:
        ValueError: the model carries an edit or knows fewer than `LEAST` facts, or facts have no paraphrases or no
            neighbours.
    """
    lm.check_unedited("the layers to edit")
    known = _known(lm, facts)
    told(f"{lm.name} knows {len(known)} of {len(facts)} facts; tracing {min(traced, len(known))} of them")
    sample = Random(seed).sample(known, min(tried, len(known)))
    begin = time.perf_counter()
    critical = _critical(lm, Random(seed).sample(known, min(traced, len(known))))
    tracing = time.perf_counter() - begin
    told(f"critical layers by causal traces: {_span(critical)}  {tracing:.1f} s")

    own = lm.preset.memit.fast() if fast else lm.preset.memit
    h = replace(own, lam=LAMBDAS[0], clamp=CLAMPS[0])
    search = _Search(lm, sample, told)
    sets = candidates(critical or (generic_preset(lm.name, lm.n_layers).layers[-1],))
    search.prepare(sets)
    h = replace(h, layers=search.best("layers", sets, lambda layers: search.memit(replace(h, layers=layers))))
    clamps = search.clamps(h)
    h = replace(h, clamp=search.best("clamp", clamps, lambda clamp: search.memit(replace(h, clamp=clamp))))
    h = replace(h, lam=search.best("lambda", LAMBDAS, lambda lam: search.memit(replace(h, lam=lam))))
    closed = search.best("lambda of the closed form", LAMBDAS, lambda lam: search.closed(h, lam))
    preset = _preset(lm, h, closed, len(sample))
    tuning = Tuning(preset, len(known), len(facts), critical, tuple(search.trials), tracing)
    told(f"{tuning.seconds:.0f} s in all")
    return tuning


def candidates(critical: Sequence[int]) -> list[Layers]:
    """Sets of layers that end at the first, the middle or the last critical layer; the middle one comes first."""
    ends = dict.fromkeys((critical[len(critical) // 2], critical[-1], critical[0]))
    wanted = [range(end - (n - 1) * step, end + 1, step) for end in ends for n, step in SHAPES]
    return list(dict.fromkeys(tuple(layer for layer in layers if layer >= 0) for layers in wanted))


class _Search:
    """Edits of the same facts with one choice after another."""

    def __init__(self, lm: LanguageModel, facts: Sequence[Fact], told: Callable[[str], None]) -> None:
        self.lm, self.facts, self.told = lm, facts, told
        self.trials: list[Trial] = []

    def prepare(self, sets: Sequence[Layers]) -> None:
        """Measure C of all layers in question, and the facts before any edit."""
        layers = sorted({layer for one in sets for layer in one})
        self.moments = second_moments(self.lm, layers)
        self.ready = prepare_evaluation(self.lm, self.facts, below=layers[0])
        if isnan(self.ready.before.score):
            raise ValueError("these facts have no paraphrases or no neighbours, and the score needs both: add them.")

    def best(self, choice: str, values: Iterable[Value], edit: Callable[[Value], Edit]) -> Value:
        """The value whose edit has the best score."""
        tried = []
        for value in values:
            begin = time.perf_counter()
            with edit(value).applied(self.lm):
                found = evaluate(self.lm, self.facts, prepared=self.ready)
            tried.append(Trial(choice, value, found, time.perf_counter() - begin))
            self.told(str(tried[-1]))
        self.trials += tried
        return max(tried, key=lambda trial: trial.found.score).value

    def clamps(self, h: Hparams) -> tuple[float, ...]:
        """The clamps to try. Of those far above every MKV only the first: behind a norm, deltas may all be short."""
        longest = max(float(mkv.residual.norm() / mkv.h.norm()) for mkv in self._mkvs(h))
        if SLACK * longest < min(CLAMPS):
            self.told(f"one clamp is tried: no MKV is farther from h than {longest:.2f} of its length")
            return CLAMPS[:1]
        return CLAMPS

    def memit(self, h: Hparams) -> Edit:
        return memit(self.lm, self.facts, self._mkvs(h), self.moments, hparams=h)

    def closed(self, h: Hparams, lam: float) -> Edit:
        paths = trajectories(self.lm, self.facts, self._mkvs(h), layers=h.layers)
        return closed_form.trajectory(paths, self.moments, lam)

    def _mkvs(self, h: Hparams) -> list[Mkv]:
        return stored_mkvs(self.lm, self.facts, hparams=h)


def _known(lm: LanguageModel, facts: Sequence[Fact]) -> tuple[Fact, ...]:
    found = shareable(lm, known_facts(lm, facts))
    if len(found) < LEAST:
        raise ValueError(
            f"{lm.name} knows {len(found)} of these {len(facts)} facts, and a choice needs {LEAST}: give more "
            "facts, or others."
        )
    return found


def _critical(lm: LanguageModel, facts: Sequence[Fact]) -> Layers:
    """The critical layers, or none if severing the MLPs costs nothing."""

    def traces(sever: str):
        return [
            causal_trace(lm, fact, samples=1, sever=sever, classes=("last subject",), seed=i)
            for i, fact in enumerate(facts)
        ]

    gap = mediated(traces(""), traces("mlp"))
    return critical_layers(gap) if float(gap.mean.max()) > 0 else ()


def _span(layers: Layers) -> str:
    return f"{layers[0]} to {layers[-1]}" if layers else "none; the middle of the model is taken instead"


def _preset(lm: LanguageModel, h: Hparams, closed: float, facts: int) -> Preset:
    """The model's preset with what was chosen; methods that it has no hyperparameters for get generic ones."""
    own, generic = lm.preset, generic_preset(lm.name, lm.n_layers)
    pmet, command = own.pmet or generic.pmet, "python -m fleke_lib.tune"
    if h.optimiser:
        pmet, command = pmet.fast(), f"{command} --fast"
    return replace(
        own,
        model=lm.name.rpartition("/")[2] or lm.name,
        source=f"causal traces and a search on {facts} facts by {command}",
        memit=h,
        rome=replace(own.rome, layers=h.layers[-1:], lam=h.lam),
        pmet=replace(pmet, layers=h.layers, clamp=h.clamp, lam=h.lam),
        alphaedit=replace(own.alphaedit or generic.alphaedit, layers=h.layers, clamp=h.clamp),
        finetune=replace(own.finetune, layer=h.layer),
        locft_bf=own.locft_bf or generic.locft_bf,
        contexts=contexts_for(lm),
        size=(lm.model.config.model_type, lm.n_layers, lm.d_model, lm.d_mlp),
        weights=(weights_digest(lm),),
        trajectory_lam=closed,
    )
