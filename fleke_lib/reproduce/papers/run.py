"""One run from facts to table: vectors made, a federation played by two rules, every method's models asked.

Vectors and answers are on disk in pieces (see `papers.pieces`), second moments in the library's own cache; what lies
between them takes minutes and is computed again after an interruption, with the same result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleke_lib.edit.moments import sample_text, second_moments
from fleke_lib.edit.trajectories import shareable
from fleke_lib.facts.contexts import write_contexts
from fleke_lib.facts.fact import Fact
from fleke_lib.federation import ClientConfig, Compression, Everyone, Majority, Part, Rules, Run, Tags, pack, run_fedit
from fleke_lib.federation.provider import TOGETHER, StoredProvider
from fleke_lib.federation.retrieval.topics import spectral_labels
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.reproduce.papers.methods import Found, answers, exams, table
from fleke_lib.reproduce.papers.parts import Chosen, choose, limited, parts_of, remaining
from fleke_lib.reproduce.papers.pieces import Progress, digest, kept, timed
from fleke_lib.reproduce.papers.presets import PaperPreset

FORMAT = "fleke-paper-3"
SEED = 0  # of contexts, clusters and bootstrap intervals
BATCH = 16  # facts computed together, which is faster: no run is compared with another one bit for bit
SECRET = b"the clients' own"  # of the keyed tags; an experiment in one process has nobody to keep it from


@dataclass(frozen=True)
class Choices:
    """What the caller may choose.

    to: the run's folder. limit: of facts. lam: the weight of C in the closed form.
    texts: that C is measured on, the shipped sample text by default; tokens: how many of theirs, all by default.
    moments: where second moments are kept, the user's cache by default. together: facts in a file of vectors.
    """

    to: Path
    limit: int
    lam: float
    texts: Sequence[str] | None = field(default=None, repr=False)
    tokens: int | None = None
    moments: Path | None = None
    together: int = TOGETHER


@dataclass(frozen=True)
class PaperResult:
    """What a run found, with what it depends on.

    chosen: the facts, and how many were left out why. refused: facts that admission refused, with its reasons.
    runs: by rule. found: what each method's models answer.
    seconds: by step; of vectors and answers all that they took, of the rest this call's.
    """

    recipe: PaperPreset
    choices: Choices
    lm: LanguageModel
    chosen: Chosen
    refused: Mapping[str, str]
    parts: tuple[Part, ...]
    runs: Mapping[str, Run]
    found: Found
    seconds: Mapping[str, float]


def run(
    recipe: PaperPreset, lm: LanguageModel, facts: Sequence[Fact], choices: Choices, progress: Progress
) -> PaperResult:
    """The whole run; `progress` is given a line for every piece that has been written.

    Raises:
        ValueError: there are too few facts, or what the library refuses.
    """
    seconds: dict[str, float] = {}
    with timed("facts, contexts, clients", seconds):
        base = digest(FORMAT, weights_digest(lm), str(lm.model.dtype), lm.device.type)
        lm = with_contexts(lm, choices.to, base)
        chosen = choose(facts, shareable(lm, facts))
        taking_part = limited(chosen.facts, recipe.dataset, recipe.clients, choices.limit)
        parts = _parts(recipe, lm, taking_part, choices.to, base)
        progress(f"{len(taking_part)} facts of {len(parts)} clients in {len(parts[0].slots)} slots; not shareable "
             f"{chosen.not_shareable}, repeated {chosen.repeated}")  # fmt: skip
    with timed("second moments", seconds):
        moments = second_moments(lm, texts=choices.texts, tokens=choices.tokens, folder=choices.moments)
    provider = StoredProvider(lm, choices.to / "made", batch=BATCH, together=choices.together, progress=progress)
    provider.fill(taking_part)
    seconds["MKVs and trajectories"] = provider.seconds(taking_part)
    with timed("federation", seconds):
        refused = refusals(lm, taking_part, provider)
        parts = remaining(parts, [fact for fact in taking_part if fact.question in refused])
        runs = federations(recipe, lm, parts, provider)
    for rule, one in runs.items():
        progress(f"{rule}: {len(one.ledger.select('adopted'))} adoptions")
    held = [[part.name, [[(fact.question, fact.target_new) for fact in slot] for slot in part.slots]] for part in parts]
    key = digest(FORMAT, provider.key, choices.lam, choices.texts, choices.tokens, recipe.tau, held)
    measured = [
        (exam, answers(lm, exam, key, choices.to, progress, seconds))
        for exam in exams(lm, parts, *runs.values(), provider, moments, choices.lam)
    ]
    return PaperResult(recipe, choices, lm, chosen, refused, parts, runs, table(measured), seconds)


def with_contexts(lm: LanguageModel, folder: Path, key: str) -> LanguageModel:
    """The model with context prefixes in its preset: those of the preset, or written once and kept.

    They are sampled, and where sums round otherwise another text comes of it: what was made for the first were lost.
    """
    path = folder / "kept" / f"contexts-{key[:16]}.json"
    contexts = lm.preset.contexts or kept(path, lambda: write_contexts(lm, seed=SEED))
    return replace(lm, preset=replace(lm.preset, contexts=tuple(contexts)))


def refusals(lm: LanguageModel, facts: Sequence[Fact], provider: StoredProvider) -> dict[str, str]:
    """The facts whose packets the registry would not admit, by question, with its reason.

    One of them would end a federation; here it is left out and reported.
    """
    rules, tags, found = Rules.of(lm), Tags(SECRET), {}
    for fact in facts:
        (prepared,) = provider([fact])
        named = {"question": tags.question(fact), "answer": tags.answer(fact)}
        try:
            rules.check(pack(prepared.trajectory, prepared.mkv, "client", 0, named, Compression()).data)
        except ValueError as error:
            found[fact.question] = str(error)
    return found


def federations(
    recipe: PaperPreset, lm: LanguageModel, parts: Sequence[Part], provider: StoredProvider
) -> dict[str, Run]:
    """The same clients by the paper's rule, on raw MKVs of one slot, and adopting everything."""
    published = ClientConfig(Majority(recipe.tau), representation="raw", looks_back=False)
    configs = {"published rule": published, "everything": ClientConfig(Everyone())}
    return {name: run_fedit(lm, parts, each, provider=provider, secret=SECRET) for name, each in configs.items()}


def count_tokens(lm: LanguageModel, texts: Sequence[str] | None) -> int:
    """Tokens of the text that C is measured on."""
    return sum(len(lm.tokenizer(text).input_ids) for text in (sample_text() if texts is None else texts))


def _parts(recipe: PaperPreset, lm: LanguageModel, facts: Sequence[Fact], folder: Path, key: str) -> tuple[Part, ...]:
    asked = digest(key, [fact.question for fact in facts], recipe.clients)
    path = folder / "kept" / f"clusters-{asked[:16]}.json"

    def labels() -> list[int]:
        return kept(path, lambda: spectral_labels(lm, facts, recipe.clients, SEED))

    return parts_of(facts, recipe.dataset, recipe.clients, recipe.slots, labels)
