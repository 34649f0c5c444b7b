"""The figure of the registry's file: the withdrawn packets' bytes are highlighted before, and nothing afterwards."""

import json
import shutil

import numpy as np
import pytest

from fleke_lib.federation.registry.registry import Registry
from fleke_lib.figures.unlearning_registry import COLUMNS, bytes_map, pixels, registry_bytes
from tests.federation.sample_packets import RULES, packet_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path / "figures"))


def test_the_registry_before_and_after(tmp_path):
    path, before = tmp_path / "registry.sqlite", tmp_path / "before.sqlite"
    packets = [packet_of(seed, ("ada", "bob", "cleo")[seed % 3]) for seed in range(24)]
    gone, kept = ([p for p in packets if (p.client == "bob") == mine] for mine in (True, False))
    with Registry(path, RULES) as registry:
        for packet in packets:
            registry.put(packet.data)
        shutil.copy(path, before)
        registry.withdraw(client="bob")
    picture = registry_bytes(before, path, gone, kept)
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and picture.path.read_bytes().startswith(b"\x89PNG")
    counts = picture.data["bytes"]
    least = sum(len(packet.data) - 1000 for packet in gone)  # without their heads, which name no fact
    assert counts["Before"]["withdrawn bytes"] > least and counts["After"]["withdrawn bytes"] == 0
    for title, file in {"Before": before, "After": path}.items():
        content = file.read_bytes()
        assert sum(counts[title].values()) == len(content)
        shown, each = "".join(picture.data["rows"][title]), picture.data["bytes a pixel"]
        assert len(shown) - shown.count("3") == -(-len(content) // each)
        assert ("2" in shown) == (title == "Before")
        for place in range(0, len(content), 97 * each):
            pixel = content[place : place + each]
            assert (shown[place // each] == "0") == (not any(pixel))
    assert "0 are of withdrawn packets" in picture.alt and f"{counts['Before']['withdrawn bytes']:,}" in picture.alt


def test_bytes_and_pixels(tmp_path):
    packet, path = packet_of(1), tmp_path / "file"
    z = packet.z.numpy().tobytes()
    path.write_bytes(bytes(7) + b"abc" + z)
    found = bytes_map(path, [packet])
    assert found.tolist() == [0] * 7 + [1] * 3 + [2] * len(z)
    shown = pixels(np.array([0, 0, 0, 1, 2, 0, 0], np.uint8), 2, 1)
    assert shown.shape == (1, COLUMNS) and shown[0, :5].tolist() == [0, 1, 2, 0, 3]
