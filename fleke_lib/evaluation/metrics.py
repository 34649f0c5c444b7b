"""The metrics, each defined once, with its source.

A metric has one value per fact; with several paraphrases or neighbours it is their mean. The reported value is the mean
over facts, as in the public code of ROME and MEMIT, with a bootstrap interval. P(o | x) is `exp` of the mean
log-probability per token of the target o after the prompt x, as in that code; the abbreviations in parentheses are
ROME's (arXiv 2202.05262, section 3.3). A fact without paraphrases, neighbours or generation prompts does not count in
the metrics that need them.

    success    efficacy (ES)      P(new | question) > P(true | question)
               paraphrase (PS)    P(new | x) > P(true | x)                 x: a paraphrase of the question
               specificity (NS)   P(its own answer | x) > P(new | x)       x: a neighbour
               score (S)          harmonic mean of the three means
    magnitude  efficacy_magnitude (EM) ...                                 the same with `-` in place of `>`
    accuracy   edit_accuracy ...  share of the target's tokens that are the argmax, given the target's tokens before
                                  them, as reported for zsRE (MEND, arXiv 2110.11309; MEMIT, arXiv 2210.07229)
    generation entropy (GE), consistency (RS)                              `generation_quality`
               says, mentions                                              `free_decoding`
    harm       perplexity, divergence, battery                             `harm.py`: what no fact is about
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

from fleke_lib.evaluation import likelihood, words
from fleke_lib.evaluation.harm import HarmReference
from fleke_lib.evaluation.results import THREE, Evaluation, checked
from fleke_lib.facts.fact import Fact, normal_form
from fleke_lib.model import generation
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import listed

# scikit-learn's terms, words of two letters or more, and the characters of scripts without blanks between words
TERM = rf"[{words.UNSPACED}]|(?<![^\W{words.UNSPACED}])[^\W{words.UNSPACED}]{{2,}}"


@dataclass(frozen=True, eq=False)
class PreparedEvaluation:
    """Facts whose prompts have run up to the first edited layer; `before` is the evaluation of the model then."""

    facts: tuple[Fact, ...]
    queries: likelihood.Prepared
    before: Evaluation


def evaluate(
    lm: LanguageModel,
    facts: Sequence[Fact],
    *,
    prepared: PreparedEvaluation | None = None,
    harm: HarmReference | None = None,
    generate: int = 0,
    references: Mapping[tuple[str, str], Sequence[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure the model as it is now on these facts.

    Args:
        prepared: from `prepare_evaluation` with the same facts; then only the layers above run.
        harm: from `prepare_harm` of the unedited model; then `.harm` says what changed outside the facts.
        generate: number of tokens to sample per generation prompt for entropy and consistency; 0 skips both.
        references, seed: as for `generation_quality`.

    Raises:
        ValueError: there are no facts, `prepared` has other facts, or the model has changed below the prepared layer
            (of `prepared` or of `harm`).
    """
    facts = checked(facts)
    if prepared is not None and prepared.facts != facts:
        raise ValueError("these are not the facts that the evaluation was prepared for: give those, or prepare again.")
    queries = likelihood.plan(lm, *_asked(facts)) if prepared is None else prepared.queries
    found = _tabulate(facts, likelihood.score(lm, queries))
    if harm is not None:
        found = replace(found, harm=harm.measure(lm))
    if not generate:
        return found
    written = generation_quality(lm, facts, tokens=generate, references=references, seed=seed)
    return replace(found, per_fact={**found.per_fact, **written.per_fact}, texts=written.texts)


def prepare_evaluation(lm: LanguageModel, facts: Sequence[Fact], below: int | None = None) -> PreparedEvaluation:
    """Measure the model now, and keep the states that enter layer `below` (default: the preset's first edited layer).

    Later evaluations, of edits that change no lower layer, then run only the upper layers.

    Raises:
        ValueError: there are no facts, or the model has no layer `below`.
    """
    facts = checked(facts)
    queries = likelihood.prepare(lm, *_asked(facts), below=lm.preset.layers[0] if below is None else below)
    return PreparedEvaluation(facts, queries, _tabulate(facts, queries.scores))


def free_decoding(lm: LanguageModel, facts: Sequence[Fact], tokens: int = 16) -> Evaluation:
    """Let the model answer each question greedily, without teacher forcing: `.says`, `.mentions`, `.texts`.

    Follows WILD (arXiv 2502.11177). It shows that teacher forcing, which gives the model the answer's tokens and
    length, reports success that users do not see. There a language model judges the answer; here the text must begin
    with the new target (`says`) or contain it (`mentions`), word by word, ignoring case, punctuation and articles
    (`words.py` says what a word is).

    Args:
        tokens: maximal length of an answer.

    Raises:
        ValueError: there are no facts, or `tokens` is less than 1.
    """
    facts = checked(facts)
    texts = generation.greedy(lm, [fact.question for fact in facts], tokens)
    pairs = [(text, fact.target_new) for text, fact in zip(texts, facts, strict=True)]
    found = {
        "says": np.array([words.begins(*pair) for pair in pairs], float),
        "mentions": np.array([words.contains(*pair) for pair in pairs], float),
    }
    return Evaluation(facts, found, tuple((text,) for text in texts))


def generation_quality(
    lm: LanguageModel,
    facts: Sequence[Fact],
    *,
    tokens: int = 60,
    references: Mapping[tuple[str, str], Sequence[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Sample a text per distinct generation prompt (top 5, prompt included): `.entropy`, `.consistency`, `.texts`.

    Entropy is the mean `ngram_entropy` of a fact's texts, in bits. Consistency is the TF-IDF cosine between the fact's
    joined texts and the joined `references` of its (relation, new target); it is measured only with references. Both
    depend on `tokens`: compare results of equal `tokens` only. ROME's texts have 100 tokens, prompt included, and its
    references are Wikipedia's texts about subjects whose true answer is the new target.

    Raises:
        ValueError: there are no facts, `tokens` is less than 1, or references are one text instead of a list.
    """
    facts = checked(facts)
    texts = _write_about(lm, facts, tokens, seed)
    found = {"entropy": np.array([_mean([ngram_entropy(text) for text in own]) for own in texts])}
    if references is not None:
        known = {(relation, normal_form(target)): own for (relation, target), own in references.items()}
        wanted = [known.get((fact.relation, normal_form(fact.target_new)), ()) for fact in facts]
        found["consistency"] = _cosines(texts, [listed(own, "a value of references") for own in wanted])
    return Evaluation(facts, found, texts)


def references_from(
    lm: LanguageModel, facts: Sequence[Fact], tokens: int = 60, seed: int = 0
) -> dict[tuple[str, str], list[str]]:
    """Texts of the unedited model about subjects, by their true answers: `{(relation, true target): texts}`.

    They replace the Wikipedia texts that ROME compares with. Consistency then measures whether the edited model writes
    about the subject as the unedited model writes about subjects whose true answer is the new target. It cannot show
    whether either text is true. Give more facts than were edited, since most new targets should be the true answer of
    some subject.

    Raises:
        ValueError: an edit is applied to the model, or there are no facts.
    """
    if lm.edits:
        raise ValueError(f"{lm.name} has {len(lm.edits)} edits applied: take references from the unedited model.")
    references: dict[tuple[str, str], list[str]] = {}
    for fact, texts in zip(facts, _write_about(lm, checked(facts), tokens, seed), strict=True):
        references.setdefault((fact.relation, normal_form(fact.target_true)), []).extend(texts)
    return references


def ngram_entropy(text: str) -> float:
    """`(2/3 H_2 + 4/3 H_3) / 2` in bits, H_n = -sum_g f(g) log2 f(g) over the text's n-grams of words (ROME's GE).

    ROME reports 100 times this value and takes its words from NLTK; words here are runs of letters, digits and
    underscores, single characters of scripts without blanks between words, and single punctuation marks.
    """
    found = re.findall(rf"[{words.UNSPACED}]|[^\W{words.UNSPACED}]+|[^\w\s]", text)
    entropy = {}
    for n in (2, 3):
        counts = Counter(zip(*(found[i:] for i in range(n)), strict=False))
        total = counts.total()
        entropy[n] = sum(c / total * log2(total / c) for c in counts.values())
    return (2 / 3 * entropy[2] + 4 / 3 * entropy[3]) / 2


class _Question(NamedTuple):
    """Prompt `prompt` of fact number `fact`: `answer` should be likelier than `rival`."""

    fact: int
    metric: str
    prompt: str
    answer: str
    rival: str


def _questions(facts: Sequence[Fact]) -> Iterator[_Question]:
    """All questions about the facts, without neighbours whose own answer is the new target: they cannot show harm."""
    for i, fact in enumerate(facts):
        yield _Question(i, "efficacy", fact.question, fact.target_new, fact.target_true)
        for prompt in fact.paraphrases:
            yield _Question(i, "paraphrase", prompt, fact.target_new, fact.target_true)
        for near in fact.neighbours:
            if normal_form(near.target) != normal_form(fact.target_new):
                yield _Question(i, "specificity", near.prompt, near.target, fact.target_new)


def _asked(facts: Sequence[Fact]) -> tuple[list[str], list[str]]:
    """Prompts and targets, two for each question: first the answer, then its rival."""
    asked = list(_questions(facts))
    return [q.prompt for q in asked for _ in range(2)], [target for q in asked for target in (q.answer, q.rival)]


def _tabulate(facts: tuple[Fact, ...], scores: likelihood.Scores) -> Evaluation:
    """The metrics from the scores of the questions that `_asked` lists; nan where the model's predictions are."""
    asked = list(_questions(facts))
    log_prob, accuracy = scores.log_prob.double().numpy().reshape(-1, 2), scores.accuracy.double().numpy()[::2]
    probability, unknown = np.exp(log_prob), np.isnan(log_prob).any(1)
    if unknown.any():
        warnings.warn(
            f"the model's predictions are not numbers (nan) at {unknown.sum()} of {len(asked)} prompts, so their facts "
            "do not count in the means: check the weights, or load the model in float32.",
            stacklevel=3,
        )
    found = {}
    for metric, zsre in zip(THREE, ("edit", "paraphrase", "neighbour"), strict=True):
        rows = np.array([q.metric == metric for q in asked])
        owner = np.array([q.fact for q in asked])[rows]
        for name, values in {
            metric: np.where(unknown, np.nan, log_prob[:, 0] > log_prob[:, 1]),
            f"{metric}_magnitude": probability[:, 0] - probability[:, 1],
            f"{zsre}_accuracy": accuracy,
        }.items():
            with np.errstate(invalid="ignore"):
                sums = np.bincount(owner, values[rows], len(facts))
                found[name] = sums / np.bincount(owner, minlength=len(facts))
    first = np.array([q.metric == "efficacy" for q in asked])
    found |= {"probability": probability[first, 0], "top1": np.where(unknown, np.nan, accuracy == 1)[first]}
    return Evaluation(facts, found)


def _write_about(lm: LanguageModel, facts: Sequence[Fact], tokens: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """For each fact, one sampled text for each of its distinct generation prompts, prompt included."""
    prompts = [(i, prompt) for i, fact in enumerate(facts) for prompt in dict.fromkeys(fact.generation_prompts)]
    written = generation.sample(lm, [prompt for _, prompt in prompts], tokens, seed=seed)
    texts: list[list[str]] = [[] for _ in facts]
    for (i, prompt), text in zip(prompts, written, strict=True):
        texts[i].append(prompt + text)
    return tuple(map(tuple, texts))


def _cosines(texts: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " facts"]:
    """TF-IDF cosine of each fact's joined texts with its joined references; nan if either is missing or has no term."""
    found = np.full(len(texts), np.nan)
    known = [i for i, pair in enumerate(zip(texts, references, strict=True)) if all(pair)]
    fitted = dict.fromkeys(text for reference in references for text in reference)
    if known and any(re.search(TERM, text) for text in fitted):
        vectors = TfidfVectorizer(token_pattern=TERM).fit(fitted)
        one, other = (vectors.transform([" ".join(side[i]) for i in known]) for side in (texts, references))
        found[known] = one.multiply(other).sum(1).A1
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
