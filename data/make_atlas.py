"""Writes atlas.json, the project's own benchmark, from the tables in atlas_source/, and its figures into atlas.md.

    python data/make_atlas.py

A table holds one relation: its subjects, their true answers, the prompts, and sources for checking the facts. We draw
more facts from the tables than we need. Then we test the unedited model, and refuse a fact if the model does not prefer
the true answer to the new target, or if it answers too many of the fact's neighbours wrongly. Of the remaining facts
each relation keeps the first `KEPT`.

Neighbours ask about *bystanders*: subjects that no fact of the atlas edits. If the answer for a bystander changes, that
is damage, however many facts are edited at once. For the same reason no subject is edited in two relations.
"""

import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from random import Random

from fleke_lib.evaluation.likelihood import log_probs
from fleke_lib.model.language_model import LanguageModel, load_model

HERE = Path(__file__).parent
TABLES, ATLAS, CARD = HERE / "atlas_source", HERE / "atlas.json", HERE / "atlas.md"
OPENINGS = (TABLES / "openings.txt").read_text("utf-8").splitlines()  # unrelated to all facts
SEED = "atlas 1"

BYSTANDERS, DRAWN, KEPT = 12, 30, 22  # greatest numbers per relation
NEIGHBOURS, SAME_ANSWER = 6, 2  # per fact; how many of them share its true answer, if there are such bystanders
NEIGHBOURS_RIGHT = 4  # a fact is refused if the unedited model answers fewer of its neighbours correctly

DOMAINS = ("geography", "science", "medicine", "companies", "culture")
LEAST_FACTS, LEAST_RELATIONS, LEAST_IN_A_DOMAIN, LARGEST_SHARE = 480, 12, 60, 0.15
LEAST_PREFERRED, LEAST_NEIGHBOURS_RIGHT = 0.95, 0.8


def main() -> None:
    relations = read_relations()
    drawn = measure(load_model(), draw(relations))
    kept = keep(drawn)
    check(kept)
    figures = table(drawn, kept)
    records = [{"case_id": i, **fact.record} for i, fact in enumerate(kept)]
    write(ATLAS, as_text(records))
    write(CARD, filled_in(CARD.read_text(encoding="utf-8"), figures))
    print(figures)


@dataclass(frozen=True, eq=False)
class Relation:
    """One table. `answers` has the true answer of every subject, `others` more answers that are true or nearly so."""

    id: str
    name: str
    domain: str
    source: str
    prompts: list[str]  # the edit prompt first; a neighbour's question uses any of them
    paraphrases: list[str]
    generation: list[str]
    answers: dict[str, str]
    others: dict[str, set[str]]

    def false_answers(self, subject: str) -> set[str]:
        return set(self.answers.values()) - self.others[subject] - {self.answers[subject]}


def read_relations() -> list[Relation]:
    return [relation_from(path.name, tomllib.loads(path.read_text("utf-8"))) for path in sorted(TABLES.glob("*.toml"))]


def relation_from(file: str, entry: dict) -> Relation:
    answers = {subject: answer for answer, subjects in entry["answers"].items() for subject in subjects}
    also, alike = entry.get("also", {}), entry.get("alike", [])
    if missing := [key for key in ("relation_id", "name", "source", "paraphrases", "generation") if not entry.get(key)]:
        raise ValueError(f"{file} has no {missing[0]}: every relation needs one.")
    prompts = [entry["prompt"], *entry["near"]]
    templates = [*prompts, *entry["paraphrases"], *entry["generation"]]
    if len(set(entry["paraphrases"])) < 2:
        raise ValueError(f"{file} has one paraphrase only: give at least two, each fact shows two of them.")
    if len(answers) < sum(map(len, entry["answers"].values())):
        raise ValueError(f"{file} gives a subject two answers: name the second one under [also].")
    if unknown := [*(also.keys() - answers), *({*chain(*also.values(), *alike)} - entry["answers"].keys())]:
        raise ValueError(f"{file} has no {unknown[0]!r} under [answers], but names it under [also] or alike.")
    if odd := [t for t in templates if t.count("{}") != 1 or t.startswith("{}") or t != t.strip()]:
        raise ValueError(f"{file}: {odd[0]!r} must have words, then one {{}} for the subject, no outer blanks.")
    if entry["domain"] not in DOMAINS:
        raise ValueError(f"{file} is of domain {entry['domain']!r}: give one of {', '.join(DOMAINS)}.")
    others = {s: {*also.get(s, []), *chain(*(group for group in alike if a in group))} for s, a in answers.items()}
    plain = {key: entry[key] for key in ("name", "domain", "source", "paraphrases", "generation")}
    return Relation(id=entry["relation_id"], prompts=prompts, answers=answers, others=others, **plain)


def by_lot(things: Iterable[str], *why: str) -> list[str]:
    """The things in a random order. A thing's sort key depends only on the seed, the reason and its name: adding a line
    to a table does not reshuffle the others."""
    return sorted(things, key=lambda thing: Random(" | ".join([SEED, *why, thing])).random())


def draw(relations: list[Relation]) -> list[tuple[Relation, dict]]:
    """All drawn facts, as records in CounterFact's format without their number."""
    bystanders, edited = cast(relations)
    return [
        (relation, record(relation, subject, bystanders[relation]))
        for relation in relations
        for subject in edited[relation][:DRAWN]
    ]


def cast(relations: list[Relation]) -> tuple[dict[Relation, list[str]], dict[Relation, list[str]]]:
    """For each relation its bystanders and its edited subjects: no subject is both, or is edited in two relations."""
    standing: set[str] = set()
    bystanders: dict[Relation, list[str]] = {}
    for relation in relations:
        lots = by_lot(relation.answers, relation.id, "bystander")
        bystanders[relation] = sorted(lots, key=lambda subject: subject not in standing)[:BYSTANDERS]
        standing.update(bystanders[relation])
    edited: dict[Relation, list[str]] = {relation: [] for relation in relations}
    for subject in by_lot({*chain(*(relation.answers for relation in relations))} - standing, "edited"):
        homes = [relation for relation in relations if subject in relation.answers]
        edited[min(homes, key=lambda relation: len(edited[relation]))].append(subject)
    return bystanders, edited


def record(relation: Relation, subject: str, bystanders: list[str]) -> dict:
    true, new = relation.answers[subject], by_lot(relation.false_answers(subject), relation.id, subject, "new")[0]
    denied = [b for b in by_lot(bystanders, relation.id, subject) if new in relation.false_answers(b)]
    same = [b for b in denied if relation.answers[b] == true][:SAME_ANSWER]
    neighbours = by_lot([*same, *(b for b in denied if b not in same)][:NEIGHBOURS], subject)
    plain, after_another = by_lot(relation.paraphrases, relation.id, subject)[:2]
    opening = by_lot(OPENINGS, relation.id, subject)[0]
    return {
        "requested_rewrite": {
            "prompt": relation.prompts[0],
            "relation_id": relation.id,
            "target_new": {"str": new},
            "target_true": {"str": true},
            "subject": subject,
        },
        "paraphrase_prompts": [plain.format(subject), f"{opening} {after_another.format(subject)}"],
        "neighborhood_prompts": [by_lot(relation.prompts, relation.id, b)[0].format(b) for b in neighbours],
        "neighborhood_targets": [relation.answers[b] for b in neighbours],
        "generation_prompts": [template.format(subject) for template in relation.generation],
    }


@dataclass(frozen=True)
class Measured:
    """A drawn fact, and whether the unedited model prefers the true answer to the fact's new target, for the fact and
    for each of its neighbours."""

    relation: Relation
    record: dict
    preferred: bool
    neighbours: list[bool]

    @property
    def refusal(self) -> str:
        """The reason to refuse the fact; an empty string if there is none."""
        rewrite = self.record["requested_rewrite"]
        subject, targets = rewrite["subject"], [rewrite["target_true"]["str"], rewrite["target_new"]["str"]]
        asked = "\n".join([rewrite["prompt"].format(subject), *self.record["paraphrase_prompts"]])
        told = any(re.search(rf"(?<!\w){re.escape(target)}(?!\w)", asked) for target in targets)
        hinted = any(word in subject.lower() for word in re.findall(r"\w{4,}", " ".join(targets).lower()))
        reasons = {
            "a prompt contains an answer": told,
            "the subject contains a word of an answer": hinted,
            f"fewer than {NEIGHBOURS} bystanders can be asked": len(self.neighbours) < NEIGHBOURS,
            "the model does not prefer the truth": not self.preferred,
            f"fewer than {NEIGHBOURS_RIGHT} neighbours are right": sum(self.neighbours) < NEIGHBOURS_RIGHT,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")


def measure(lm: LanguageModel, drawn: list[tuple[Relation, dict]]) -> list[Measured]:
    questions = [question for _, record in drawn for question in questions_of(record)]
    prompts, true, new = map(list, zip(*questions, strict=True))
    of_true, of_new = log_probs(lm, prompts + prompts, true + new).view(2, -1)
    right = iter((of_true > of_new).tolist())
    return [
        Measured(relation, record, next(right), [next(right) for _ in record["neighborhood_prompts"]])
        for relation, record in drawn
    ]


def questions_of(record: dict) -> Iterator[tuple[str, str, str]]:
    """Prompt, true answer and new target, first of the fact itself, then of its neighbours."""
    rewrite = record["requested_rewrite"]
    new = rewrite["target_new"]["str"]
    yield rewrite["prompt"].format(rewrite["subject"]), rewrite["target_true"]["str"], new
    for prompt, true in zip(record["neighborhood_prompts"], record["neighborhood_targets"], strict=True):
        yield prompt, true, new


def keep(drawn: list[Measured]) -> list[Measured]:
    """The first accepted facts of every relation, one of each in turn: any prefix of the file is a balanced sample."""
    relations = dict.fromkeys(fact.relation for fact in drawn)
    accepted = {r.id: [fact for fact in drawn if fact.relation is r and not fact.refusal][:KEPT] for r in relations}
    rounds = zip_longest(*(accepted[id] for id in by_lot(accepted, "turn")))
    return [fact for one_of_each in rounds for fact in one_of_each if fact]


def check(kept: list[Measured]) -> None:
    """Raise ValueError if the benchmark as a whole misses one of the thresholds at the top of this file."""
    relations = Counter(fact.relation.id for fact in kept)
    domains = Counter(fact.relation.domain for fact in kept)
    largest = max(relations.values(), default=0) / max(1, len(kept))
    preferred, right = shares(kept)
    bars = [
        ("facts", len(kept), LEAST_FACTS),
        ("relations", len(relations), LEAST_RELATIONS),
        *((f"facts of {domain}", domains[domain], LEAST_IN_A_DOMAIN) for domain in DOMAINS),
        ("share of facts outside the largest relation", 1 - largest, 1 - LARGEST_SHARE),
        ("share of facts of which the model prefers the truth", preferred, LEAST_PREFERRED),
        ("share of neighbours that the model has right", right, LEAST_NEIGHBOURS_RIGHT),
    ]
    if missed := [f"{what}: {value:.4g} instead of {least}" for what, value, least in bars if value < least]:
        raise ValueError(f"The atlas is not written, it misses a bar: {'; '.join(missed)}. Add facts to {TABLES.name}.")


def shares(facts: list[Measured]) -> tuple[float, float]:
    """The share of facts whose true answer the model prefers, and the share of neighbours that it answers correctly."""
    neighbours = [right for fact in facts for right in fact.neighbours]
    return sum(fact.preferred for fact in facts) / max(1, len(facts)), sum(neighbours) / max(1, len(neighbours))


def table(drawn: list[Measured], kept: list[Measured]) -> str:
    """The table of figures for the data card, in Markdown."""
    relations = dict.fromkeys(fact.relation for fact in drawn)
    rows = [
        "| id | domain | relation | edit prompt | facts | known | neighbours right, drawn | kept | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for relation in sorted(relations, key=lambda r: (DOMAINS.index(r.domain), r.name)):
        text = [relation.id, relation.domain, relation.name, relation.prompts[0]]
        mine = [[fact for fact in facts if fact.relation is relation] for facts in (drawn, kept)]
        rows.append(_row([*text, *_figures(*mine), relation.source]))
    rows.append(_row(["all", "", "", "", *_figures(drawn, kept), ""]))
    domains = Counter(fact.relation.domain for fact in kept)
    refused = Counter(fact.refusal for fact in drawn if fact.refusal)
    return "\n\n".join([
        "\n".join(rows),
        f"Facts by domain: {', '.join(f'{domain} {domains[domain]}' for domain in DOMAINS)}.",
        f"Drawn: {len(drawn)}. Refused: {', '.join(f'{n} because {why}' for why, n in refused.most_common())}. "
        f"Accepted but above the {KEPT} of a relation: {len(drawn) - refused.total() - len(kept)}. Kept: {len(kept)}.",
    ])  # fmt: skip


def _figures(drawn: list[Measured], kept: list[Measured]) -> list[str]:
    known, right_drawn = shares(drawn)
    return [str(len(kept)), f"{known:.2f}", f"{right_drawn:.2f}", f"{shares(kept)[1]:.2f}"]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled_in(card: str, figures: str) -> str:
    """The data card with the figures inserted between its two marks."""
    before, _, rest = card.partition("<!-- figures -->\n")
    _, _, after = rest.partition("<!-- end of figures -->\n")
    return f"{before}<!-- figures -->\n\n{figures}\n\n<!-- end of figures -->\n{after}"


def as_text(records: list[dict]) -> str:
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def write(path: Path, text: str) -> None:
    half = path.with_name(path.name + ".half")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


if __name__ == "__main__":
    main()
