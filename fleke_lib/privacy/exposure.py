"""How readable are these packets, sums or updates? All attacks at once, for whoever holds the facts and can check.

An organisation that wants to know what its own vectors give away knows its own facts. It compares what each attack
names with the truth; the attacks do not get it. Each attack's threat model is in its own file
(`fleke_lib.privacy.attacks`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fleke_lib.facts.fact import Fact
from fleke_lib.federation.packets.packet import Packet
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.privacy.attacks.chain import read
from fleke_lib.privacy.attacks.rates import Rate, commonest, ranks, rate
from fleke_lib.privacy.attacks.relation import template_scores
from fleke_lib.privacy.attacks.subject import Dictionary, seen, subject_scores
from fleke_lib.privacy.attacks.target import blind, logit_lens, target_token, with_template
from fleke_lib.privacy.attacks.updates import Candidates, found_among, from_S, from_T, from_update
from fleke_lib.ridge.sums import Sums


def packets_exposed(
    lm: LanguageModel, packets: Sequence[Packet], facts: Sequence[Fact], known: Dictionary, templates: Sequence[str]
) -> dict[str, Rate]:
    """The rate of every attack on single packets.

    Args:
        facts: what each packet says, in the same order.
        known: the attacker's candidate subjects (`attacks.subject.dictionary`); the true ones are among them.
        templates: the attacker's public templates; the true ones are among them.

    Raises:
        ValueError: there are not as many facts as packets, or a true subject or template is no candidate.
    """
    subjects = _places([fact.subject for fact in facts], known.subjects, "subject")
    prompts = _places([fact.prompt for fact in facts], templates, "template")
    if len(packets) != len(facts):
        raise ValueError(f"{len(packets)} packets are given and {len(facts)} facts: give each packet's own fact.")
    tokens = torch.tensor([target_token(lm, fact) for fact in facts])
    z, h = (torch.stack([getattr(packet, name) for packet in packets]) for name in ("z", "h"))
    last = packets[0].layers[-1]

    def said(scores: Float[Tensor, "packets vocabulary"]) -> Rate:
        return Rate(int((ranks(scores, tokens) == 1).sum()), len(tokens), commonest(tokens.tolist()))

    found = {
        "target, by the logit lens": said(logit_lens(lm, z)),
        "target, by the layers above": said(blind(lm, z, h, last)),
        "target, template known": said(with_template(lm, z, last, [fact.prompt for fact in facts])),
        "template": rate(ranks(template_scores(lm, packets, templates), prompts), len(templates)),
        "subject": rate(ranks(subject_scores(seen(packets), known), subjects), len(known.subjects)),
    }
    readings = read(lm, packets, known, templates, best=5)
    proved = [
        reading.prompt.certain and reading.prompt.beginning + reading.prompt.subject == _up_to_subject(fact)
        for reading, fact in zip(readings, facts, strict=True)
    ]
    whole = [
        (reading.prompt.subject, reading.template, reading.target) == (fact.subject, fact.prompt, int(token))
        for reading, fact, token in zip(readings, facts, tokens, strict=True)
    ]
    return found | {
        "subject and beginning, proved": Rate(sum(proved), len(facts), 0.0),
        "subject, template and target, one after the other": Rate(sum(whole), len(facts), 0.0),
    }


def sums_exposed(
    change: Float[Tensor, "d_model d_mlp"],
    total: Sums,
    facts: Sequence[Fact],
    known: Dictionary,
    moment: Float[Tensor, "d_mlp d_mlp"],
) -> dict[str, Rate]:
    """The recall of subjects from dW, from T and from S of the first edited layer.

    As many candidates are named as there are subjects, the ones with the highest scores.

    Args:
        change, total: dW, and the sums that it was solved from.
        facts: what is in them.
        known: as for `packets_exposed`.
        moment: C of this layer.
    """
    subjects = _places([fact.subject for fact in facts], known.subjects, "subject").unique()
    keys = Candidates.of(known.keys, moment)
    scores = {
        "dW": from_update(change, keys),
        "T": from_T(total.T, keys),
        "S": from_S(total.S, keys),
    }
    chance = len(subjects) / len(known.subjects)
    return {name: Rate(found_among(each, subjects), len(subjects), chance) for name, each in scores.items()}


def _up_to_subject(fact: Fact) -> str:
    return fact.prompt.partition("{}")[0] + fact.subject


def _places(wanted: Sequence[str], among: Sequence[str], what: str) -> Int[Tensor, " victims"]:
    place = {each: i for i, each in enumerate(among)}
    if missing := [each for each in wanted if each not in place]:
        raise ValueError(f"the {what} {missing[0]!r} is no candidate: a rate needs the truth among the candidates.")
    return torch.tensor([place[each] for each in wanted])
