"""Which target does an MKV make the model say?

The attacker sees z and h of packets, and has the public model. It ranks the whole vocabulary by how well each token
fits as the target's first one.

    logit lens      the final norm and the vocabulary projection on z. The layers above L are skipped, and with them
                    nearly everything that turns z into an answer: the attack fails.
    blind           knows nothing else. z takes the place of the state of " name" in "The name" + ending, for a few
                    endings, and the layers above L run. Score: sum over endings of log P_z + (log P_z - log P_h); the
                    second term removes what the subject says without the edit.
    with_template   knows the prompt's template, or the whole prompt: z takes the subject's place in it. Score: log P_z.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import stage
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import Span, encode_for

CARRIER, NAME = "The name", (4, 8)  # the text whose last word z replaces, and that word's characters
ENDINGS = ("", " is", " is the", " was", " in", " of", ",", " and", " the")
PLACEHOLDER = "this name"  # stands in a template for a subject that is not known
ROWS = 64  # states that run at a time: their log-probabilities take ROWS * vocabulary numbers


def target_token(lm: LanguageModel, fact: Fact) -> int:
    """The token that the attacks should name: the first one of the fact's new target after its question."""
    text = encode_for(lm, fact.question, fact.target_new)
    return text.ids[text.target]


@torch.no_grad()
def logit_lens(lm: LanguageModel, z: Float[Tensor, "packets d_model"]) -> Float[Tensor, "packets vocabulary"]:
    """log P from z alone, as if no layers followed."""
    return _log_probs(lm, z)


@torch.no_grad()
def continued(
    lm: LanguageModel, text: str, span: Span, layer: int, states: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocabulary"]:
    """log P of the token after `text` when each state in turn replaces the one after `layer` at the span's last token.

    Raises:
        ValueError: no layer follows `layer`, or an edit is applied to the model.
    """
    lm.check_unedited("the continuations of an attack")
    lm.check_layer(layer + 1)
    calls = stage(lm, [encode_for(lm, text, subject=span)], start=layer + 1).calls
    found = []
    for part in states.to(calls.hidden).split(ROWS):
        same = calls.rows(torch.zeros(len(part), dtype=torch.long, device=lm.device))
        hidden = torch.cat([part[:, None], same.hidden[:, 1:]], 1)
        found.append(_log_probs(lm, same.run(lm, hidden)[:, -1]))
    return torch.cat(found)


def blind(
    lm: LanguageModel,
    z: Float[Tensor, "packets d_model"],
    h: Float[Tensor, "packets d_model"],
    layer: int,
    endings: Sequence[str] = ENDINGS,
) -> Float[Tensor, "packets vocabulary"]:
    """The scores of all tokens without any knowledge of the prompts. layer: L, after which z and h are the states."""
    return sum(
        2 * continued(lm, CARRIER + ending, NAME, layer, z) - continued(lm, CARRIER + ending, NAME, layer, h)
        for ending in endings
    )


def with_template(
    lm: LanguageModel,
    z: Float[Tensor, "packets d_model"],
    layer: int,
    templates: Sequence[str],
    subjects: Sequence[str] | None = None,
) -> Float[Tensor, "packets vocabulary"]:
    """The scores of all tokens where each packet's template is known, or guessed.

    Args:
        layer: L.
        templates: one for each packet, with `{}` for the subject.
        subjects: one for each packet, where they are known; else a placeholder stands for each.
    """
    subjects = subjects or [PLACEHOLDER] * len(templates)
    prompts: dict[tuple[str, str], list[int]] = {}
    for i, prompt in enumerate(zip(templates, subjects, strict=True)):
        prompts.setdefault(prompt, []).append(i)
    scores = None
    for (template, subject), rows in prompts.items():
        start = template.index("{}")
        text = template.replace("{}", subject, 1)
        found = continued(lm, text, (start, start + len(subject)), layer, z[rows])
        scores = found.new_empty(len(z), found.shape[1]) if scores is None else scores
        scores[rows] = found
    return scores


def _log_probs(lm: LanguageModel, hidden: Tensor) -> Tensor:
    return lm.logits(hidden.to(lm.device, lm.model.dtype)).float().log_softmax(-1).cpu()
