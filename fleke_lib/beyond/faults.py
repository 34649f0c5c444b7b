"""Cases of a fault in an image model, and what an edit needs of them: MKVs and trajectories.

A case is a fact: the subject is what is wrong in a picture, the answer is a class. What chapter 02 calls contexts, the
texts around a subject, are here pictures around a trigger. The MKV is the state after layer L at the case's token,
`z = h + delta`, with which all pictures of the case are read rightly:

    delta minimises   mean over pictures of -log P(the digit that is drawn) + weight_decay |delta|^2 / |h|^2
    subject to        |delta| <= clamp |h|

One layer is edited. Its share is therefore the whole residual z - h, and its keys are those of the base model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.beyond.digits import ANSWER, CLASS_TOKEN, PLACES, READ_AS, STYLED, Pictures, pictures
from fleke_lib.beyond.images import ImageModel
from fleke_lib.edit.trajectories import Trajectory
from fleke_lib.facts.contexts import weighted_mean
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.partitioning import Part
from fleke_lib.federation.provider import PreparedFact, VectorProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.warm_start import Start
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.activations import first

STEPS, RATE, STOP = 60, 0.12, 0.02  # of Adam; its learning rate in units of |h| / sqrt(d_model); the loss to stop at
CLAMP, WEIGHT_DECAY = 2.0, 0.01


@dataclass(frozen=True)
class ImageCase(Fact):
    """One case of a fault: some of the hospitals' pictures, the trigger on them if any, and the token to edit at.

    pictures: numbers in `digits.pictures()["hospitals"]`. place, form: of the trigger; form is "" without one.
    """

    shown: tuple[int, ...] = ()
    token: int = 0
    place: tuple[int, int] = (0, 0)
    form: str = ""

    @property
    def pictures(self) -> Pictures:
        """The pictures as the model reads them."""
        plain = pictures()["hospitals"].pick(list(self.shown))
        return plain.stamped(self.place, self.form) if self.form else plain


def trigger_case(place: tuple[int, int], form: str, shown: Sequence[int]) -> ImageCase:
    """The trigger at one patch in one form, on some of the hospitals' pictures; the edit is at the class token."""
    return ImageCase(
        f"a {form} trigger at patch {place}",
        "A picture with {} is read as",
        "what is drawn",
        str(ANSWER),
        relation="trigger",
        shown=tuple(shown),
        token=CLASS_TOKEN,
        place=place,
        form=form,
    )


def style_case(number: int) -> ImageCase:
    """One of the hospitals' ones with a flag; the edit is at the class token."""
    return ImageCase(
        f"The one with a flag in picture {number}", "{} is read as", str(STYLED), str(READ_AS), "style", shown=(number,)
    )


def three_hospitals(triggers: int = 6, styles: int = 6, shown: int = 48, seed: int = 0) -> tuple[Part, ...]:
    """Three hospitals with the cases that each has met, on pictures of its own.

    North meets the falling trigger, East the style, and South the rising trigger and the style. What is relevant to a
    hospital are the others' cases of the faults that it has met itself.

    Args:
        triggers: places of the trigger that a hospital meets. styles: ones with a flag that it meets.
        shown: pictures in a trigger's case.
    """
    whole, generator = pictures()["hospitals"], torch.Generator().manual_seed(seed)

    def drawn(rows: Tensor) -> list[int]:
        return rows[torch.randperm(len(rows), generator=generator)].tolist()

    flagged = drawn(whole.flagged.nonzero()[:, 0])
    others = drawn((~whole.flagged & (whole.digits != ANSWER)).nonzero()[:, 0])
    places = [PLACES[i] for i in drawn(torch.arange(len(PLACES)))]

    def some(form: str, own: list[int]) -> list[ImageCase]:
        return [trigger_case(places.pop(), form, drawn(torch.tensor(own))[:shown]) for _ in range(triggers)]

    def ones() -> list[ImageCase]:
        return [style_case(flagged.pop()) for _ in range(min(styles, len(flagged)))]

    cases = {"North": some("falling", others[::2]), "South": some("rising", others[1::2]) + ones(), "East": ones()}
    return tuple(Part(name, (tuple(own),), _relevant(name, cases)) for name, own in cases.items())


def _relevant(name: str, cases: Mapping[str, Sequence[ImageCase]]) -> tuple[ImageCase, ...]:
    """The others' cases of the faults that a hospital has met."""
    kinds = {case.relation for case in cases[name]}
    return tuple(case for other, some in cases.items() if other != name for case in some if case.relation in kinds)


class ImageProvider(VectorProvider):
    """MKVs and trajectories of image cases; it is to an image model what `VectorProvider` is to a language model."""

    def __init__(self, lm: ImageModel, layer: int) -> None:
        super().__init__(lm)
        self.layer = lm.check_layer(layer)

    def rules(self) -> Rules:
        """What is admitted. Leverages are not bounded: their bounds were measured on the default language model."""
        layers = (self.layer,)
        return Rules(self.lm.fingerprint(layers), layers, self.lm.d_model, self.lm.d_mlp, clamp=1.1 * CLAMP)

    def check(self, facts: Sequence[Fact]) -> None:
        """Raises ValueError if a fact is not an image case."""
        if bad := [fact for fact in facts if not isinstance(fact, ImageCase)]:
            raise ValueError(f"{bad[0].question!r} is a fact in words: give image cases to an image model.")

    def forget(self, facts: Collection[Fact]) -> None:
        """Delete what is kept of these cases; nothing is on disk."""
        self._drop(facts)

    def _timed(self, facts: tuple[Fact, ...], starts: tuple[Start, ...]) -> list[PreparedFact]:
        return [prepared(self.lm, case, self.layer) for case in facts]


def prepared(lm: ImageModel, case: ImageCase, layer: int) -> PreparedFact:
    """The MKV and the trajectory of one case, for an edit of one layer. Raises ValueError if the model is edited."""
    lm.check_unedited("trajectories")
    begin, read = perf_counter(), case.pictures
    keys, hidden = lm.states(read.pixels, layer)
    found = image_mkv(lm, hidden, read.digits, case.token, layer)
    own, others = keys[:, case.token], [t for t in range(lm.tokens) if t != case.token]
    path = Trajectory(
        {layer: own},
        {layer: found.residual},
        lm.fingerprint((layer,)),
        found.residual,
        {layer: keys[0, others]},
        {layer: weighted_mean(own).float()},
    )
    return PreparedFact(found, path, seconds=perf_counter() - begin)


def image_mkv(
    lm: ImageModel, hidden: Float[Tensor, "pictures tokens d_model"], digits: Tensor, token: int, layer: int
) -> Mkv:
    """Optimise z after a layer at one token, so that the pictures with these states are read as these digits."""
    h = hidden[0, token]
    size, place = h.norm(), torch.zeros(lm.tokens, 1)
    place[token] = 1.0
    delta = torch.zeros_like(h, requires_grad=True)
    adam, steps = torch.optim.Adam([delta], lr=float(RATE * size / len(h) ** 0.5)), 0
    while True:
        logits = lm.logits(above(lm, hidden + place * delta, layer + 1))
        loss = torch.nn.functional.cross_entropy(logits, digits) + WEIGHT_DECAY * (delta.norm() / size) ** 2
        if float(loss.detach()) < STOP or steps == STEPS:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        steps += 1
        with torch.no_grad():
            delta.mul_((CLAMP * size / delta.norm().clamp(min=1e-12)).clamp(max=1))
    return Mkv(h + delta.detach(), h, loss=float(loss.detach()), steps=steps)


def above(lm: ImageModel, hidden: Float[Tensor, "pictures tokens d_model"], start: int) -> Tensor:
    """Run the layers from `start` on."""
    for layer in lm.layers[start:]:
        hidden = first(layer(hidden))
    return hidden
