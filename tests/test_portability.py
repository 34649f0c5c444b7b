"""Notebooks 00 to 03 run on another family of models: a tiny Gemma-3, which puts a norm behind the MLP.

Every cell runs at smoke scale with this model in place of the default one. Only assertions about numbers measured on
the default model may fail, and each of them is listed here; everything that a cell computes, draws or shows must work.
"""

import ast
import json
from pathlib import Path

import pytest
import torch

import fleke_lib as fleke
from tests.tiny import tiny

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MEASURED = {
    "00_start_here": {
        'assert [most_likely(question)[0] for question in questions] == ["Paris", "Au", "Shakespeare"]',
        "assert all(true > new for true, new in before)",
        "assert efficacy and paraphrase and specificity",
        "assert loss[0] > loss[1]",
    },
    "01_locating_knowledge": {
        "assert lens[:-1].max() < 0.01 * lens[-1]",
        "assert corrupted < 0.1 * clean",
        "assert restored(low, last) > restored(high, last) and restored(low, end) < restored(high, end)",
        "assert max(restored(between, token) - corrupted for token in (last, end)) < 0.5 * (clean - corrupted)",
        'assert single["mlp"].best(last)[1] > single["attention"].best(last)[1]',
        'assert single["attention"].best(end)[1] > single["attention"].best(last)[1]',
        'assert single["mlp"].best(last)[0] < single["attention"].best(end)[0]',
        'assert peak["last subject"] > peak["first subject"]',
        "assert early < late",
        'assert attention.row("last").mean.max() > attention.row("last subject").mean.max()',
        "assert alone.argmax() == 0",
        "assert G[:half].mean() > 3 * G[half:].mean().abs()",
        "assert critical[0] <= last_edited <= critical[-1]",
        "assert carried > 0.5",
    },
    "02_editing": {
        "assert probability(mkv.z) > 0.5",
        "assert said.efficacy == 1",
        "assert missing[-1] > missing[0] / 2",
        "assert distances[-1] < distances[0] and abs(growth[-1][1].score - best_found.score) < 0.1",
        "assert strict.efficacy > before.efficacy and strict.paraphrase > before.paraphrase",
        "assert both.efficacy == 1",
        "assert recalled.efficacy >= 0.9 and recalled.specificity > prepared.before.specificity - 0.1",
    },
    "03_sharing_mkvs": {
        "assert vectors_only.score > 0.99 * with_text.score",
        "assert all(with_them[i] < without_them[i] for i in layers)",
        "assert vectors_only.score > averaged.score",
        "assert adopted.efficacy > three.before.efficacy",
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So small a model is fastest with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Gemma-3 of eight layers that has learned the facts which the notebooks begin with, as a saved folder."""
    lm = tiny("gemma3_text", layers=8)
    atlas = fleke.load_facts("atlas")
    some = [*atlas[:15], *(fact for fact in atlas if fact.subject in ("Prozac", "Nepal"))]
    texts = [f"{fact.question} {fact.target_true}" for fact in some] + ["The capital of France is Paris"]
    rows = lm.tokenizer(texts, padding=True, return_tensors="pt")
    optimiser = torch.optim.Adam(lm.model.parameters(), lr=3e-3)
    for parameter in lm.model.parameters():
        parameter.requires_grad_(True)
    for _ in range(150):
        loss = lm.model(**rows, labels=rows.input_ids.masked_fill(rows.attention_mask == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    place = tmp_path_factory.mktemp("models") / "tiny-gemma"
    lm.model.save_pretrained(place)
    lm.tokenizer.save_pretrained(place)
    return place


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MEASURED)
def test_a_notebook_runs_on_another_family(name, folder, tmp_path, monkeypatch):
    lm = fleke.load_model(folder)
    monkeypatch.setattr(fleke, "load_model", lambda: lm)
    monkeypatch.setenv("FLEKE_SCALE", "smoke")
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(NOTEBOOKS)
    failed = run(NOTEBOOKS / f"{name}.ipynb")
    assert failed <= MEASURED[name], f"not assertions about the default model: {failed - MEASURED[name]}"
    assert not lm.edits


def run(path: Path) -> set[str]:
    """Run a notebook's cells statement by statement; returns the assertions that fail."""
    names: dict = {"__name__": "__main__"}
    failed = set()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        for statement in ast.parse(source).body if cell["cell_type"] == "code" else ():
            text = ast.get_source_segment(source, statement)
            try:
                if isinstance(statement, ast.Expr):
                    shown = eval(compile(ast.Expression(statement.value), text, "eval"), names)
                    repr(shown)
                else:
                    exec(compile(ast.Module([statement], []), text, "exec"), names)
            except AssertionError:
                failed.add(text)
    return failed
