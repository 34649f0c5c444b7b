"""Facts as text in the prompt: the model is unchanged, and reads the fact before it answers.

This needs the text of every fact wherever the model is used, so it is not a way to share facts as vectors. It is the
comparison that shows what text can do. For each prompt a memory of facts is searched. If a fact's subject occurs in the
prompt, the fact is written before it:

    "The capital of France is Rome. People there, in France, live mostly in the city of"

Source: in-context editing (IKE, Zheng et al., arXiv 2305.12740), without its demonstrations and with word vectors in
place of sentence embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

from fleke_lib.evaluation import words
from fleke_lib.evaluation.metrics import evaluate
from fleke_lib.evaluation.results import Evaluation, best_of, checked
from fleke_lib.facts.fact import Fact
from fleke_lib.model.language_model import LanguageModel

# On atlas facts 0 to 110 all thresholds from 0.62 to 0.9 do the same: every paraphrase finds its fact, and 0.3% of the
# neighbours find one.
THRESHOLD = 0.7
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, eq=False)
class TextMemory:
    """Facts to be found by prompts that mention their subjects.

    The nearness of a fact to a prompt is the share of its subject that the prompt mentions, from 0 to 1: each word
    counts as the square of its weight in the subject's TF-IDF vector of length 1, so that a rare word counts more. Of
    facts whose subjects are equally near, the one with the nearer question is taken (cosine of TF-IDF vectors). The
    whole question is no use for the decision, because neighbours of a fact differ from it in nothing but the subject.

    facts: those that the memory holds.
    threshold: a fact is written before a prompt if its nearness exceeds this.
    """

    facts: tuple[Fact, ...]
    threshold: float = THRESHOLD
    _subjects: TfidfVectorizer = field(init=False, repr=False)
    _questions: TfidfVectorizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError if there are no facts."""
        object.__setattr__(self, "facts", checked(self.facts))
        object.__setattr__(self, "_subjects", TfidfVectorizer(analyzer=list).fit(map(_name, self.facts)))
        object.__setattr__(self, "_questions", TfidfVectorizer(analyzer=list).fit(map(_question, self.facts)))

    def nearness(self, prompts: Sequence[str]) -> Float[np.ndarray, "prompts facts"]:
        """The share of each fact's subject that each prompt mentions, weighted by how rare its words are."""
        subjects = self._subjects.transform(map(_name, self.facts))
        mentioned = self._subjects.transform(map(_terms, prompts)) > 0
        return np.minimum((mentioned.astype(float) @ subjects.multiply(subjects).T).toarray(), 1.0)  # 1 + 2e-16 is 1

    def found(self, prompts: Sequence[str]) -> list[Fact | None]:
        """The fact that is written before each prompt, if any."""
        near = self.nearness(prompts)
        questions = self._questions.transform(map(_question, self.facts))
        alike = (self._questions.transform(map(_terms, prompts)) @ questions.T).toarray()
        best = near.max(1, keepdims=True)
        choice = np.where(near >= best - 1e-9, alike, -1.0).argmax(1)
        return [self.facts[i] if top > self.threshold else None for i, top in zip(choice, best[:, 0], strict=True)]

    def before(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, each with the statement of the fact that it finds before it."""
        return [
            prompt if fact is None else f"{statement(fact)} {prompt}"
            for fact, prompt in zip(self.found(prompts), prompts, strict=True)
        ]

    def asked(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts with all their prompts as the model then reads them; any measurement can be made of these."""
        return [self._asked(fact) for fact in facts]

    def _asked(self, fact: Fact) -> Fact:
        question, *others = self.before([fact.question, *fact.paraphrases, *(near.prompt for near in fact.neighbours)])
        written = question[: len(question) - len(fact.question)].replace("{}", "")  # the template's own stays alone
        paraphrases, near = others[: len(fact.paraphrases)], others[len(fact.paraphrases) :]
        return replace(
            fact,
            prompt=written + fact.prompt,
            paraphrases=tuple(paraphrases),
            neighbours=tuple(replace(n, prompt=text) for n, text in zip(fact.neighbours, near, strict=True)),
            generation_prompts=tuple(self.before(fact.generation_prompts)) if fact.generation_prompts else (),
        )


def statement(fact: Fact) -> str:
    """The fact as a sentence with its new answer."""
    return f"{fact.question} {fact.target_new}."


def evaluate_with_text(
    lm: LanguageModel, facts: Sequence[Fact], memory: Sequence[Fact] | TextMemory | None = None
) -> Evaluation:
    """`evaluate` of the model as it is, where each prompt finds a fact in the memory and has it written before it.

    Args:
        memory: all facts of the federation, or a `TextMemory` of them; by default the facts that are measured.

    Raises:
        ValueError: there are no facts, in `facts` or in the memory.
    """
    facts = checked(facts)
    if not isinstance(memory, TextMemory):
        memory = TextMemory(facts if memory is None else tuple(memory))
    return replace(evaluate(lm, memory.asked(facts)), facts=facts)


def tuned_threshold(lm: LanguageModel, facts: Sequence[Fact], thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The threshold with the greatest score when these facts are the memory; give facts that are reported nowhere.

    Raises:
        ValueError: there are no facts or no thresholds, or the facts have no score, for lack of paraphrases or
            neighbours.
    """
    if not len(thresholds):
        raise ValueError("there are no thresholds to try: give at least one.")
    scores = {tau: evaluate_with_text(lm, facts, TextMemory(tuple(facts), tau)).score for tau in thresholds}
    return best_of(scores)


def _terms(text: str) -> list[str]:
    """The words and signs of a text, for comparison."""
    return [word.casefold() for word in words.words(text, signs=True)]


def _name(fact: Fact) -> list[str]:
    """The words of a fact's subject; its signs if it has no word, such as "+"."""
    return [word.casefold() for word in words.words(fact.subject)] or _terms(fact.subject)


def _question(fact: Fact) -> list[str]:
    return _terms(fact.question)
