"""A fact: a subject, a relation as a prompt with `{}` in place of the subject, the true answer and the wanted one.

Paraphrases, neighbours and generation prompts are used only to measure an edit.
"""

import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from fleke_lib.model.tokens import listed


def normal_form(text: str) -> str:
    """The text in Unicode's form NFC, in which texts are compared: "é" may be one code point, or two (on a Mac)."""
    return unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class Neighbour:
    """A prompt whose answer an edit must not change, mostly about another subject."""

    prompt: str  # the full text; it ends right before the answer
    target: str  # its true answer, without a leading space

    def __post_init__(self) -> None:
        _tidy(self, prompt=self.prompt.rstrip(" "), target=self.target.strip())


@dataclass(frozen=True)
class Fact:
    """One fact and the wanted change of its answer.

    The model reads `question` and answers with a space and a target. An edit takes the key at the subject's last token.
    Spaces at the end of prompts and around the subject and the targets are therefore removed here. Otherwise the model
    reads the text as it is written. Texts are compared in one Unicode form, see `normal_form`.

    Raises:
        ValueError: the subject or a target is empty, the prompt does not contain `{}` exactly once, the new target
            equals the true one, or texts or neighbours are not given as a list.
    """

    subject: str
    prompt: str  # a template with exactly one "{}" for the subject; it ends right before the answer
    target_new: str
    target_true: str
    relation: str = ""  # Wikidata's id, where the data set has one
    paraphrases: tuple[str, ...] = ()  # full texts, with the subject filled in
    neighbours: tuple[Neighbour, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        about = f"of {self.prompt!r} about {self.subject!r}"
        _tidy(
            self,
            subject=self.subject.strip(),
            prompt=self.prompt.rstrip(" "),
            target_new=self.target_new.strip(),
            target_true=self.target_true.strip(),
            paraphrases=tuple([text.rstrip(" ") for text in listed(self.paraphrases, f"paraphrases {about}")]),
            neighbours=_neighbours(self.neighbours, about),
            generation_prompts=tuple(
                [text.rstrip(" ") for text in listed(self.generation_prompts, f"generation_prompts {about}")]
            ),
        )
        if fault := self._fault():
            raise ValueError(fault)

    @property
    def question(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject, 1)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Character span of the subject in `question`: start (included) and end (excluded)."""
        start = self.prompt.index("{}")
        return start, start + len(self.subject)

    def _fault(self) -> str:
        asked = f"{self.prompt!r} about {self.subject!r}"
        if not self.subject:
            return f"The subject of {self.prompt!r} is empty: give the name that the fact is about."
        if self.prompt.count("{}") != 1:
            return f"The prompt {asked} must have '{{}}' exactly once: write it in place of the subject."
        for name in ("target_new", "target_true"):
            if not getattr(self, name):
                return f"The {name} of {asked} is empty: give the answer as text."
        if normal_form(self.target_new) == normal_form(self.target_true):
            return f"The target_new of {asked} is {self.target_new!r}, the truth already: give another answer."
        return ""


def check_list(facts: object) -> None:
    """Raises ValueError if one fact or a text is given where a list of facts is expected."""
    if isinstance(facts, (Fact, str)):
        given = facts if isinstance(facts, str) else facts.question
        raise ValueError(f"facts is not a list but {type(facts).__name__} {given!r}: give a list of facts, as [fact].")


def warn_of_repeats(pairs: Iterable[tuple[str, str]], stacklevel: int = 2) -> None:
    """Warn if one edit has two answers to one question, or the same (question, answer) pair twice."""
    answers: dict[str, list[str]] = {}
    for question, answer in pairs:
        answers.setdefault(question, []).append(answer)
    torn = [question for question, given in answers.items() if len(set(given)) > 1]
    twice = [question for question, given in answers.items() if len(set(given)) < len(given)]
    if torn:
        warnings.warn(
            f"{len(torn)} questions have more than one answer in this edit, the first of them {torn[0]!r}, and a model "
            "can give only one: keep one answer to each question.",
            stacklevel=stacklevel + 1,
        )
    if twice:
        warnings.warn(
            f"{len(twice)} facts are in this edit more than once, the first of them {twice[0]!r}, and count as often: "
            "give each fact once.",
            stacklevel=stacklevel + 1,
        )


def _tidy(frozen: object, **fields) -> None:
    """Set fields of a frozen dataclass during its construction."""
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)


def _neighbours(given: Iterable[Neighbour], about: str) -> tuple[Neighbour, ...]:
    """The neighbours as a tuple. Raises ValueError if they are not a list of `Neighbour`."""
    kept = tuple(given) if isinstance(given, Iterable) else (given,)
    if kept == (given,) or not all(isinstance(near, Neighbour) for near in kept):
        raise ValueError(f"neighbours {about} is {given!r:.60}: give a list of Neighbour(prompt, target).")
    return kept
