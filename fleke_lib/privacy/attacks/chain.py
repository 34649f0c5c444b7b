"""A packet read from end to end: subject, then template, then target, each attack with what the one before found.

The attacker sees packets and knows lists of candidate subjects and public templates; no prompt and no target. Every
step is in a file of its own: `subject`, `relation`, `target`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fleke_lib.federation.packets.packet import Packet
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.relation import template_scores
from fleke_lib.privacy.attacks.subject import Dictionary, Prompt, centroids, read_prompts, seen, subject_scores
from fleke_lib.privacy.attacks.target import with_template


@dataclass(frozen=True)
class Reading:
    """What the attacker believes a packet to say. target: the id of the target's first token.

    prompt: the guess of the words up to the subject; `prompt.certain` says whether it is proved.
    """

    prompt: Prompt
    template: str
    target: int


def read(
    lm: LanguageModel,
    packets: Sequence[Packet],
    known: Dictionary,
    templates: Sequence[str],
    *,
    best: int = 20,
    tried: int = 3,
    public: int = 8,
) -> list[Reading]:
    """Read all packets.

    Args:
        known: the candidate subjects.
        templates: public templates; their beginnings are tried before the subject.
        best, tried: how many subjects and beginnings are tried, see `subject.read_prompts`.
        public: how many candidates stand for all when a beginning's mean h is computed.
    """
    layers, beginnings = packets[0].layers, list(dict.fromkeys(map(_beginning, templates)))
    scores = subject_scores(seen(packets), known)
    centres = centroids(lm, beginnings, known.subjects[:public], layers)
    prompts = read_prompts(lm, packets, scores, known.subjects, beginnings, centres, best=best, tried=tried)
    first = [known.subjects[i] for i in scores.argmax(1).tolist()]
    prompts = [
        prompt if prompt.certain else Prompt(subject, prompt.beginning, prompt.distance)
        for prompt, subject in zip(prompts, first, strict=True)
    ]
    alike = template_scores(lm, packets, templates)
    for i, prompt in enumerate(prompts):
        if prompt.certain:
            others = torch.tensor([_beginning(template) != prompt.beginning for template in templates])
            alike[i, others] = -torch.inf
    chosen = [templates[i] for i in alike.argmax(1).tolist()]
    z = torch.stack([packet.z for packet in packets])
    said = with_template(lm, z, layers[-1], chosen, [prompt.subject for prompt in prompts]).argmax(1)
    return [
        Reading(prompt, template, int(token)) for prompt, template, token in zip(prompts, chosen, said, strict=True)
    ]


def _beginning(template: str) -> str:
    return template.partition("{}")[0]
