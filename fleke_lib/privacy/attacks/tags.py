"""Which fact do a packet's tags name, and which packets of two federations are about the same fact?

Threat model.

- They see: the tags of packets, and for the links by vectors also h, axes and z.
- They know: candidate subjects, templates and targets; nothing else, or the clients' secret. A member has the secret,
  and a former member still has it unless the federation draws another. A word as a secret can be found in a list.

`named` hashes every candidate with a secret. With the clients' secret it names each fact that is among the candidates;
with any other it names none, and a guess is right with probability 1 / candidates. `weak_secret` tries words on a fact
that is likely among the packets, such as one that was read from vectors.

`equal_tags` and `likeness` link facts across federations. Tags link them only if both federations use the same secret.
h does not depend on the secret, the contexts or the client: it is computed on the base model from the bare prompt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.privacy.attacks.relation import axes, overlap


@dataclass(frozen=True)
class Named:
    """The candidate whose tags a packet has. target: "" if the question is among the candidates and the answer not."""

    subject: str
    template: str
    target: str


def named(
    packets: Sequence[Packet], tags: Tags, subjects: Sequence[str], templates: Sequence[str], targets: Sequence[str]
) -> list[Named | None]:
    """For each packet, the candidate that has its tags under a guessed or known secret, or None."""
    wanted = {packet.question for packet in packets}
    questions = {}
    for template in templates:
        for subject in subjects:
            if (tag := tags.question(_fact(subject, template))) in wanted:
                questions[tag] = subject, template
    answers = {}
    for question in questions.values():
        answers |= {tags.answer(_fact(*question, target)): target for target in targets}
    return [
        Named(*questions[packet.question], answers.get(packet.answer, "")) if packet.question in questions else None
        for packet in packets
    ]


def weak_secret(packets: Sequence[Packet], words: Iterable[bytes], facts: Sequence[Fact]) -> bytes | None:
    """The first word under which one of the facts has a tag that a packet has, or None.

    Args:
        facts: likely ones; one that is among the packets suffices. A tag of the target alone is compared as well.
    """
    shown = {tag for packet in packets for tag in (packet.question, packet.target) if tag}
    for word in words:
        tags = Tags(word)
        if any(tags.question(fact) in shown or tags.target(fact) in shown for fact in facts):
            return word
    return None


def equal_tags(ours: Sequence[Packet], theirs: Sequence[Packet]) -> Bool[Tensor, "ours theirs"]:
    """Which packets of two federations have the same question's tag."""
    return torch.tensor([[one.question == other.question for other in theirs] for one in ours])


def likeness(ours: Sequence[Packet], theirs: Sequence[Packet]) -> Float[Tensor, "ours theirs"]:
    """How likely packets of two federations are about the same fact, by their vectors; 3 at most.

    -|h - h'| / |h|, which is 0 up to rounding where the words up to the subject are the same; plus the overlap of the
    last layer's axes, for the words after it; plus the cosine of the residuals, for the target.

    Raises:
        ValueError: the packets are of different base models.
    """
    if len({packet.fingerprint for packet in (*ours, *theirs)}) > 1:
        raise ValueError(
            "these packets are of several base models, whose vectors cannot be compared: give those of one."
        )
    layer = ours[0].layers[-1]
    alike = overlap(axes(ours, layer), axes(theirs, layer)) - distances(ours, theirs)
    r, other = (normalize(torch.stack([one.residual for one in some]).double(), dim=1) for some in (ours, theirs))
    return alike + r @ other.T


def distances(ours: Sequence[Packet], theirs: Sequence[Packet]) -> Float[Tensor, "ours theirs"]:
    """|h - h'| / |h|. Up to `subject.CERTAIN`, the same words up to the subject's end count as proved."""
    h, other = (torch.stack([packet.h for packet in some]).double() for some in (ours, theirs))
    far = torch.cdist(h, other, compute_mode="donot_use_mm_for_euclid_dist")
    return far / h.norm(dim=1, keepdim=True)


def _fact(subject: str, template: str, target: str = "?") -> Fact:
    return Fact(subject, template, target, f"not {target}")
