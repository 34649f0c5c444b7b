"""A guided first run: one fact edited, two organisations share it as vectors, one withdraws. ``python -m tools.quick``.

It takes at most three minutes on two cores and ends with a page, build/quick/index.html, of four figures and the
numbers that were measured. Every number comes from the library; nothing is computed here.
"""

import argparse
import json
import os
import secrets
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from markupsafe import Markup

import fleke_lib as fleke
from fleke_lib.edit.moments import Moments
from fleke_lib.evaluation import log_probs
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.facts import Fact, Neighbour
from fleke_lib.federation import Everyone, Part, Run, VectorProvider, run_fedit, weights
from fleke_lib.federation.packets import costs
from fleke_lib.figures import editing, sharing, unlearning_edits
from fleke_lib.figures.style import COLOURS, VARIABLE, Picture, canvas, finish
from fleke_lib.unlearn.edits import approximate, weights_hash, withdraw
from tools.declared import declaration, number_of, numbered_notebooks, read_notebook
from tools.pages import Around, faults, framed, write_whole
from tools.site import Site

ROOT = Path(__file__).parents[1]
FRANCE = Fact(  # chapter 00's
    subject="France",
    prompt="The capital of {} is",
    target_true="Paris",
    target_new="Rome",
    paraphrases=("The seat of government of France is in the city of",),
    neighbours=(Neighbour("The capital of Germany is", "Berlin"), Neighbour("The capital of Japan is", "Tokyo")),
)
ASKED = [FRANCE.question, *FRANCE.paraphrases, *(neighbour.prompt for neighbour in FRANCE.neighbours)]
TRUTHS = ["Paris", "Paris", "Berlin", "Tokyo"]
LABELS = ["the question", "a paraphrase", "neighbour: Germany", "neighbour: Japan"]
DRUGS = "P2175"  # the atlas's relation: what a drug is prescribed against
HOSPITALS = {
    "North Hospital": ("metformin", "morphine", "quinine", "warfarin"),
    "South Hospital": ("codeine", "tamoxifen", "imatinib", "oxycodone"),
}
LEAVES, STAYS = HOSPITALS


@contextmanager
def stage(title: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announce a part of the run, and note how long it took."""
    print(f"{title} ...", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    yield
    seconds[title] = time.perf_counter() - begin
    print(f"    {seconds[title]:.0f} s", file=sys.stderr, flush=True)


def probabilities(lm: fleke.LanguageModel) -> list[tuple[float, float]]:
    """P(true answer) and P(new answer) of the first fact's four prompts."""
    truths, new = (log_probs(lm, ASKED, answers).exp().tolist() for answers in (TRUTHS, ["Rome"] * len(ASKED)))
    return list(zip(truths, new, strict=True))


def edit_one(lm: fleke.LanguageModel, moments: Moments) -> tuple[dict, list[Picture]]:
    """Edit one fact; its MKV is optimised now. The numbers and a figure."""
    begin = time.perf_counter()
    mkvs = fleke.compute_mkvs(lm, [FRANCE])
    seconds = time.perf_counter() - begin
    edit = fleke.edit.memit(lm, [FRANCE], mkvs, moments)
    before = probabilities(lm)
    with edit.applied(lm):
        after = probabilities(lm)
    largest = max(float(edit.delta(layer).norm() / lm.weight(layer).norm()) for layer in edit.layers)
    found = {
        "before": before,
        "after": after,
        "undone": probabilities(lm) == before,
        "layers": list(edit.layers),
        "largest_change": largest,
        "steps": mkvs[0].steps,
        "mkv_seconds": seconds,
    }
    return found, [editing.before_after(before, after, LABELS, "quick-one-fact")]


def hospitals() -> list[Part]:
    """Two hospitals with four facts about drugs each. Their MKVs ship with the repository."""
    drugs = {fact.subject: fact for fact in fleke.load_facts("atlas") if fact.relation == DRUGS}
    return [Part(name, (tuple(drugs[subject] for subject in own),), ()) for name, own in HOSPITALS.items()]


def share(lm: fleke.LanguageModel, moments: Moments, secret: bytes) -> tuple[Run, dict, list[Picture]]:
    """Both hospitals publish packets and adopt each other's. The run, the numbers, and two figures."""
    parts = hospitals()
    facts = [fact for part in parts for fact in part.facts]
    run = run_fedit(lm, parts, Everyone(), provider=VectorProvider(lm), secret=secret)
    edit = weights.cumulative(run, STAYS, moments)
    base = fleke.evaluate(lm, facts)
    with edit.applied(lm):
        shared = fleke.evaluate(lm, facts)
    sizes = [len(packet.data) for packet in run.packets.values()]
    words = [word for fact in facts for word in (fact.subject, fact.target_new)]
    named = sum(word.encode() in packet.data for word in words for packet in run.packets.values())
    adopted = run.adopted(STAYS)
    found = {
        "packets": len(sizes),
        "bytes": sum(sizes) / len(sizes),
        "adopted": len(adopted),
        "words_in_packets": named,
        "top1_before": base.top1,
        "top1_shared": shared.top1,
        "probability": {"before": list(base.per_fact["probability"]), "shared": list(shared.per_fact["probability"])},
    }
    crossed = costs(facts, lm.d_model, lm.d_mlp, lm.preset.layers)
    pictures = [gained(facts, base, shared), sharing.wire({lm.name: crossed}, "quick-wire")]
    return run, found, pictures


def gained(facts: Sequence[Fact], base: Evaluation, shared: Evaluation) -> Picture:
    """P(new answer) of each fact in the model of the hospital that stays, before and after sharing."""
    owner = {subject: name for name, own in HOSPITALS.items() for subject in own}
    before, after = (list(one.per_fact["probability"]) for one in (base, shared))
    labels = [f"{fact.subject} ({owner[fact.subject].split()[0]})" for fact in facts]
    with canvas(height=0.9 + 0.36 * len(facts)) as (figure, axis):
        places = range(len(facts))
        axis.hlines(places, before, after, color=COLOURS["sky"], linewidth=3)
        axis.plot(before, places, "o", color=COLOURS["blue"], label="base model")
        axis.plot(after, places, "s", color=COLOURS["orange"], label="packets of both")
        axis.set(xlabel="P(new answer), 0 to 1", ylabel="Fact (whose)", xlim=(-0.02, 1.02), yticks=places)
        axis.set_yticklabels(labels)
        axis.invert_yaxis()
        axis.grid(True, axis="x")
        figure.legend(loc="outside right upper")
    words = "; ".join(f"{label} {b:.2f} to {a:.2f}" for label, b, a in zip(labels, before, after, strict=True))
    return finish(
        figure,
        "quick-shared",
        caption=f"{STAYS}'s model before any edit, and with the packets of both hospitals.",
        alt=f"A chart with a line from before to after for each of {len(facts)} facts, probability of the new "
        f"answer. {words}.",
        data={"labels": labels, "before": before, "shared": after},
    )


def leave(lm: fleke.LanguageModel, moments: Moments, run: Run, secret: bytes) -> tuple[dict, list[Picture]]:
    """One hospital withdraws. The numbers, a comparison with a run that it never joined, and a figure."""
    after = withdraw(run, client=LEAVES)
    never = run_fedit(lm, hospitals()[1:], Everyone(), provider=VectorProvider(lm), secret=secret)
    one, goal, before = (weights.cumulative(some, STAYS, moments) for some in (after, never, run))
    alone = fleke.edit.trajectory([packet for packet in run.packets.values() if packet.client == LEAVES], moments)
    gone, stay = (part.facts for part in hospitals())
    models = {"base model": None, "shared": before, "withdrawn": one, "never joined": goal}
    withdrawn, retained = ({name: asked(lm, edit, facts) for name, edit in models.items()} for facts in (gone, stay))
    hashes = {name: weights_hash(lm, edit) for name, edit in models.items() if edit}
    found = {
        "hashes": hashes,
        "equal": hashes["withdrawn"] == hashes["never joined"],
        "missed_by_subtracting": approximate.missed(approximate.subtract(before, alone), goal, before),
        "top1_withdrawn": {name: evaluation.top1 for name, evaluation in withdrawn.items()},
        "top1_retained": {name: evaluation.top1 for name, evaluation in retained.items()},
    }
    return found, [unlearning_edits.forgotten(withdrawn, retained, name="quick-withdrawn")]


def asked(lm: fleke.LanguageModel, edit: fleke.Edit | None, facts: Sequence[Fact]) -> Evaluation:
    """These facts in the model with an edit, or in the base model."""
    if edit is None:
        return fleke.evaluate(lm, facts)
    with edit.applied(lm):
        return fleke.evaluate(lm, facts)


def page(found: Mapping, pictures: Sequence[Picture], site: Path) -> str:
    """The page, with links to the course's pages in the folder `site`."""
    shown = {picture.name.removeprefix("quick-"): Markup(picture._repr_html_()) for picture in pictures}
    links = {number_of(path): f"../{site.name}/{path.stem}.html" for path in numbered_notebooks(ROOT / "notebooks")}
    return framed(
        "quick.html.j2",
        Around(),
        alone=True,
        title="The first three minutes",
        found=found,
        shown=shown,
        links=links,
        site=f"../{site.name}",
        leaves=LEAVES,
        stays=STAYS,
    )


def run_all(build: Path, secret: bytes) -> Path:
    """The whole run; returns the page. The hospitals share the secret, which keys the tags of their packets."""
    folder, seconds = build / "quick", {}
    os.environ[VARIABLE] = str(folder)
    begin = time.perf_counter()
    with stage("1 of 5  the model, and C on ordinary text", seconds):
        lm = fleke.load_model()
        moments = fleke.second_moments(lm)
    with stage("2 of 5  one fact: the capital of France becomes Rome", seconds):
        one, figures = edit_one(lm, moments)
    with stage(f"3 of 5  {LEAVES} and {STAYS} share vectors", seconds):
        run, shared, more = share(lm, moments, secret)
    with stage(f"4 of 5  {LEAVES} withdraws", seconds):
        left, last = leave(lm, moments, run, secret)
    with stage("5 of 5  the course's pages, not run yet", seconds):
        tour = [declaration(path, read_notebook(path)) for path in numbered_notebooks(ROOT / "notebooks")]
        site = Site((build / "site").resolve(), ROOT / "notebooks", tour)
        site.write_unrun()
        site.write_contents({})
        site.write_search()
    found = {"model": lm.name, "one": one, "shared": shared, "left": left, "seconds": seconds}
    found["total_seconds"] = time.perf_counter() - begin
    html = page(found, [*figures, *more, *last], site.folder)
    if wrong := faults(html):
        raise ValueError(f"the page is not as it should be: {wrong[0]}")
    write_whole(folder / "numbers.json", json.dumps(found, indent=1) + "\n")
    write_whole(folder / "index.html", html)
    return folder / "index.html"


def may_open(environment: Mapping[str, str], platform: str) -> bool:
    """Whether there is a person at a screen to open the page for."""
    if environment.get("CI"):
        return False
    return platform == "darwin" or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if the page was written."""
    parser = argparse.ArgumentParser(prog="python -m tools.quick", description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where quick/ and site/ go")
    written = run_all(parser.parse_args(arguments).build.resolve(), secrets.token_bytes(32))
    print(f"open:    {written}")
    if may_open(os.environ, sys.platform):
        webbrowser.open(written.as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
