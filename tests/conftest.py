"""Fixtures and settings of all tests: no network, few threads, fixed random examples, one model per session."""

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("FLEKE_MODEL", None)  # the tests are about the default model

import pytest
import torch
from hypothesis import settings

settings.register_profile("whole", derandomize=True, deadline=None)
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=20)  # for the inner loop
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "whole"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Flower has an environment of its own; elsewhere the tests that need it are skipped."""
    if importlib.util.find_spec("flwr") is None:
        skip = pytest.mark.skip(reason="Flower is not installed here: `make test-federation` runs this test.")
        for item in items:
            if item.get_closest_marker("flower"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Share the cores among the workers of pytest-xdist, which would otherwise wait for each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(scope="session")
def lm():
    """The default model, loaded once; a test that edits it must put the weights back."""
    import fleke_lib

    return fleke_lib.load_model()
