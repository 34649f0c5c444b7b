"""Which facts a model knows. Only these can be located, and only for these does an edit change a correct answer."""

from collections.abc import Sequence
from typing import Literal

from fleke_lib.evaluation import likelihood
from fleke_lib.evaluation.results import checked
from fleke_lib.facts.fact import Fact
from fleke_lib.model.language_model import LanguageModel


def known_facts(
    lm: LanguageModel, facts: Sequence[Fact], need: Literal["top1", "preferred"] = "top1"
) -> tuple[Fact, ...]:
    """The facts that the model, as it is now, knows, in their order; all questions are scored together.

    Args:
        need: "top1": every token of the true answer is the model's first choice at the question, given the answer's
            tokens before it. "preferred": the true answer is likelier per token than the new one, as in the efficacy
            metric.

    Raises:
        ValueError: there are no facts, or `need` is unknown.
    """
    facts = checked(facts)
    if need not in ("top1", "preferred"):
        raise ValueError(f"need is {need!r}: give 'top1' or 'preferred'.")
    answers = ("target_true",) if need == "top1" else ("target_true", "target_new")
    prompts = [fact.question for _ in answers for fact in facts]
    found = likelihood.score(lm, likelihood.plan(lm, prompts, [getattr(f, side) for side in answers for f in facts]))
    true, new = found.log_prob[: len(facts)], found.log_prob[len(facts) :]
    known = found.top1 if need == "top1" else true > new
    return tuple(fact for fact, yes in zip(facts, known.tolist(), strict=True) if yes)
