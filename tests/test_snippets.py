"""The pages' Python runs: every block, in the order of its page, in a folder of its own, on the default model."""

import shutil
from pathlib import Path

import pytest
import torch

from fleke_lib.federation import ClientConfig, TopK, run_fedit, weights
from tests.test_docs import FENCE, PAGES, ROOT, label, text


def blocks(page: Path) -> list[str]:
    return [block for language, block in FENCE.findall(text(page)) if language == "python"]


def followed(page: Path) -> dict:
    """The names that a page's blocks have defined, run one after another."""
    names: dict = {"__name__": "page"}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{label(page)}, block {number}", "exec"), names)
    return names


SHOWN = [page for page in PAGES if blocks(page)]


def test_every_page_with_python_is_run():
    assert {label(page) for page in SHOWN} >= {"README.md", "docs/faq.md", "docs/model.md"}
    assert len(SHOWN) == sum("```python" in text(page) for page in PAGES)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SHOWN if page.name != "README.md"], ids=label)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert followed(page)
    shutil.rmtree(tmp_path)  # the FAQ saves a whole model


@pytest.mark.model
@pytest.mark.slow
def test_the_readmes_withdrawal_gives_the_never_joined_run_bit_for_bit(tmp_path, monkeypatch):
    """With the providers that README uses: nothing is shared between the two federations."""
    monkeypatch.chdir(tmp_path)
    names = followed(ROOT / "README.md")
    lm, run, after = names["lm"], names["run"], names["after"]
    assert (tmp_path / "ten.safetensors").is_file()
    stays = [part for part in names["parts"] if part.name != "client 3"]
    never = run_fedit(lm, stays, ClientConfig(TopK(2), representation="centred"), secret=run.config.secret)
    assert never.config.provider is not after.config.provider
    assert {packet.client for packet in run.packets.values()} - {packet.client for packet in after.packets.values()}
    assert after.packets.keys() == never.packets.keys() and after.clients == never.clients
    moments = names["fleke"].second_moments(lm)
    for client in never.clients:
        one, other = (weights.cumulative(some, client, moments) for some in (after, never))
        assert all(torch.equal(one.delta(layer), other.delta(layer)) for layer in lm.preset.layers)
    shown = weights.cumulative(never, "client 0", moments)
    assert all(torch.equal(names["edit"].delta(layer), shown.delta(layer)) for layer in lm.preset.layers)
