"""Writes data/playground.json: the packets of 24 facts of four clients, for the playground page of the site.

    python -m data.make_playground [--check]

With `--check` nothing is written: some edits are made at full size from the same vectors, applied to the model, and
its answers are compared with those of the page. The first takes about a minute on one core,
the check some minutes.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor

import fleke_lib as fleke
from fleke_lib.edit.closed_form import lambda_of
from fleke_lib.edit.coupled import MOST
from fleke_lib.facts import Fact
from fleke_lib.facts.prompts import bare_text
from fleke_lib.federation.packets import Compression, Packet, pack
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.mkv.store import stored_mkvs
from fleke_lib.model.activations import rewrite
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.tokens import encode_for
from fleke_lib.storage.files import write_text
from tools import playground_data as vectors

TOKENS = 4  # of an answer, at most
CLIENT = "client"
STEPS = [round(0.1 * i, 1) for i in range(13)]
# Each fact is a relation and a subject of the atlas; where two clients disagree, the second one's answer is given.
CLIENTS = {
    "North Hospital": (
        "drugs",
        ("P2175", "metformin"), ("P2175", "morphine"), ("P2175", "quinine"),
        ("P2175", "warfarin"), ("P2175", "Prozac"), ("P2175", "tamoxifen"),
    ),
    "South Hospital": (
        "diseases",
        ("P2175", "metformin", "asthma"), ("P2175", "codeine"), ("P1995", "epilepsy"),
        ("P1995", "glaucoma"), ("P828", "malaria"), ("P828", "cholera"),
    ),
    "Map Office": (
        "countries",
        ("P36", "Germany"), ("P36", "Poland"), ("P36", "Finland"),
        ("P36", "Peru"), ("P38", "Spain"), ("P30", "Brazil"),
    ),
    "Travel Guide": (
        "sights and cities",
        ("P36", "Germany", "Rome"), ("P276", "the Colosseum"), ("P276", "the Kremlin"),
        ("P17", "Munich"), ("P17", "Osaka"), ("P495", "flamenco"),
    ),
}  # fmt: skip


def chosen_facts() -> list[Fact]:
    """The facts, client by client."""
    atlas = {(fact.relation, fact.subject): fact for fact in fleke.load_facts("atlas")}
    found = []
    for _, *wanted in CLIENTS.values():
        for relation, subject, *other in wanted:
            fact = atlas[relation, subject]
            found.append(replace(fact, target_new=other[0]) if other else fact)
    return found


@torch.no_grad()
def greedy(lm: LanguageModel, question: str, rows: int = 1) -> list[tuple[int, ...]]:
    """The most likely next tokens of some rows of one question; rows differ if activations are rewritten."""
    ids = torch.tensor([encode_for(lm, question).ids] * rows)
    for _ in range(TOKENS):
        ids = torch.cat([ids, lm.model(ids, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return [tuple(row) for row in ids[:, -TOKENS:].tolist()]


def said(lm: LanguageModel, facts: Sequence[Fact], tokens: tuple[int, ...]) -> str:
    """What a row says: a new answer or the true one in full, or else its first words."""
    for answer in (*(fact.target_new for fact in facts), facts[0].target_true):
        ids = encode_for(lm, facts[0].question, answer).target_ids[:TOKENS]
        if tokens[: len(ids)] == ids:
            return answer
    return re.split(r"[.,;:!?\n(]", lm.tokenizer.decode(tokens).strip() + ".")[0] or "…"


def table(lm: LanguageModel, facts: Sequence[Fact], mkvs: Sequence[Mkv]) -> list[str]:
    """What the model says to a question if its state after layer L is h + sum_i u_i (z_i - h), for all u in `STEPS`.

    The last answer's u changes fastest.
    """
    text, last = bare_text(lm, facts[0]), lm.layers[lm.preset.layers[-1]]
    parts = torch.cartesian_prod(*[torch.tensor(STEPS)] * len(facts)).reshape(-1, len(facts))
    delta = parts @ torch.stack([mkv.z - mkv.h for mkv in mkvs])

    def moved(state: Tensor) -> Tensor:
        state = state.clone()
        state[:, text.subject[1]] += delta
        return state

    with rewrite({last: moved}):
        rows = greedy(lm, facts[0].question, len(delta))
    return [said(lm, facts, row) for row in rows]


def questions_of(facts: Sequence[Fact]) -> dict[str, list[int]]:
    """The facts of each question, by its text."""
    found: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        found.setdefault(fact.question, []).append(i)
    return found


def vectors_of(lm: LanguageModel) -> tuple[list[Fact], list[Mkv]]:
    """The facts and their MKVs; the atlas's own are shipped, the others are optimised now."""
    facts = chosen_facts()
    return facts, stored_mkvs(lm, facts, groups=[[i] for i in range(len(facts))])


def make(lm: LanguageModel) -> dict:
    """The file's content."""
    facts, mkvs = vectors_of(lm)
    moments, layers = fleke.second_moments(lm), lm.preset.layers
    asked, questions = questions_of(facts), []
    for text, members in asked.items():
        answers = table(lm, [facts[i] for i in members], [mkvs[i] for i in members])
        words = list(dict.fromkeys(answers))
        one = {"text": text, "truth": facts[members[0]].target_true, "says": words}
        questions.append(one | {"table": [words.index(answer) for answer in answers]})
    reductions = [
        vectors.reduce(fleke.trajectories(lm, facts, mkvs, layers=layers[-m:], batch=1), moments)
        for m in range(1, len(layers) + 1)
    ]
    names = list(CLIENTS)
    owners = [names.index(name) for name, (_, *wanted) in CLIENTS.items() for _ in wanted]
    places = {i: place for place, members in enumerate(asked.values()) for i in members}
    return {
        "format": vectors.FORMAT,
        "model": lm.preset.model,
        "size": [lm.d_model, lm.d_mlp],
        "layers": list(layers),
        "lambda": lambda_of(lm.preset),
        "clients": [{"name": name, "about": about} for name, (about, *_) in CLIENTS.items()],
        "facts": [
            {"client": owners[i], "question": places[i], "subject": fact.subject, "answer": fact.target_new}
            for i, fact in enumerate(facts)
        ],
        "questions": questions,
        "steps": STEPS,
        **vectors.written(reductions),
    }


def reached(some: Sequence[vectors.ReducedPacket], edit: fleke.Edit) -> Tensor:
    """What arrives of the answers to one question, whose packets are given: by how much of each one's wanted change.

    The question's key moves from the base model's by what has arrived of each answer so far.
    """
    B = torch.zeros(len(some), len(some[0].residual), dtype=torch.float64)
    arrived, u = torch.zeros_like(B[0]), torch.zeros(len(some), dtype=torch.float64)
    for layer in edit.layers:
        key = some[0].bases[layer].clone()
        for part, one in zip(u.clamp(0, MOST), some, strict=True):
            key += part * (one.means[layer] - one.bases[layer])
        arrived += edit.delta(layer) @ key
        B += torch.stack([one.shares[layer] for one in some])
        u = torch.linalg.solve(B @ B.T, B @ arrived)
    return u


def page_says(data: Mapping, some: Sequence[vectors.ReducedPacket], edit: fleke.Edit) -> list[str]:
    """The page's answer to each question."""
    found, steps = [], torch.tensor(data["steps"], dtype=torch.float64)
    for place, question in enumerate(data["questions"]):
        asked, at = [one for one, fact in zip(some, data["facts"], strict=True) if fact["question"] == place], 0
        for u in reached(asked, edit):
            at = at * len(steps) + int((steps - u).abs().argmin())
        found.append(question["says"][question["table"][at]])
    return found


def check(lm: LanguageModel) -> None:
    """Print how often the page's answers are those of the edited model, and the error of its rounding."""
    data, moments, (facts, mkvs) = vectors.read(), fleke.second_moments(lm), vectors_of(lm)
    owners = [fact["client"] for fact in data["facts"]]
    cases = [(count, lam, None) for count in (1, 3, 6) for lam in (100.0, 3000.0, 30000.0)]
    cases += [(6, 100.0, client) for client in range(len(CLIENTS))]
    right = total = 0
    for count, lam, gone in cases:
        layers, inside = lm.preset.layers[-count:], [i for i, owner in enumerate(owners) if owner != gone]
        paths = fleke.trajectories(lm, [facts[i] for i in inside], [mkvs[i] for i in inside], layers=layers)
        full = fleke.edit.trajectory([packed(p, mkvs[i], i) for p, i in zip(paths, inside, strict=True)], moments, lam)
        small = vectors.packets(data, count)
        edit = fleke.edit.trajectory([small[i] for i in inside], vectors.identities(small[0]), lam)
        page = page_says(data, small, edit)
        with full.applied(lm):
            model = [said(lm, [facts[i] for i in m], greedy(lm, q)[0]) for q, m in questions_of(facts).items()]
        same = sum(one == other for one, other in zip(page, model, strict=True))
        right, total = right + same, total + len(page)
        print(f"{count} layers, lambda {lam:g}, without {gone}: {same} of {len(page)}")
        print("   ", [pair for pair in zip(page, model, strict=True) if pair[0] != pair[1]])
    print(f"{right} of {total} answers of the page are the edited model's")


def packed(path: fleke.Trajectory, mkv: Mkv, number: int) -> Packet:
    """A fact's packet at full size, with as many axes as on the page."""
    tags = {name: sha256(f"{name} {number}".encode()).hexdigest() for name in ("question", "answer")}
    return pack(path, mkv, CLIENT, 0, tags, Compression(vectors.AXES, "float32"))


def main(*arguments: str) -> None:
    lm = fleke.load_model()
    if arguments:
        return check(lm)
    write_text(vectors.FILE, json.dumps(make(lm), ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{vectors.FILE.name}: {vectors.FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
