"""`node`, `server` and `withdraw --node` of `python -m fleke_lib.federation`: what they answer without Flower."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleke_lib.federation.__main__ import main
from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.federation.flower.settings import save_group, save_identity
from fleke_lib.federation.flower.turns import Answer, Turn, TurnReply
from fleke_lib.federation.registry.admission import Rules
from tests.commands.site import set_up
from tests.federation.sealing.members import GROUP, IDENTITIES
from tests.federation.small import scenario
from tests.tiny import tiny

ROOT = Path(__file__).parents[2]
WITHOUT_FLOWER = pytest.mark.skipif(importlib.util.find_spec("flwr") is not None, reason="Flower is installed here.")


@pytest.fixture
def member(tmp_path):
    """The words of a `node` call without its connection."""
    set_up(tmp_path)
    save_identity(IDENTITIES["ada"], tmp_path / "ada.identity"), save_group(GROUP, {}, tmp_path / "group.json")
    files = {"folder": "memory", "facts": "bern.json", "identity": "ada.identity", "group": "group.json"}
    files |= {"secret": "secret.bin"}
    given = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    return [*given, "--per-slot", "1", "--model", str(tmp_path / "tiny")]


def refused(capsys, *arguments):
    assert main([*arguments]) == 2
    return capsys.readouterr().err


def test_a_node_needs_somebody_who_reaches_it(member, tmp_path, capsys):
    assert "give --superlink, or --socket" in refused(capsys, "node", *member)
    assert "give --root-certificates and --node-key" in refused(capsys, "node", *member, "--superlink", "x:1")
    with pytest.raises(SystemExit) as stopped:
        main(["node", *member, "--policy", "no-such"])
    assert stopped.value.code == 2


@WITHOUT_FLOWER
def test_without_flower_a_server_says_how_to_get_it(tmp_path, capsys):
    save_group(GROUP, {}, tmp_path / "group.json"), save_rules(Rules.of(scenario()[0]), tmp_path / "rules.json")
    files = {"folder": "hub", "group": "group.json", "rules": "rules.json", "root-certificates": "ca.crt"}
    files |= {"certificate": "server.crt", "private-key": "server.key"}
    given = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    assert "make federation" in refused(capsys, "server", *given, "--slots", "1")
    assert "--slots is 0" in refused(capsys, "server", *given, "--slots", "0")
    (tmp_path / "group.json").write_text("{}")
    assert "not a list of members" in refused(capsys, "server", *given, "--slots", "1")


def test_a_node_is_told_to_withdraw_in_its_folder(tmp_path, capsys):
    assert "not the folder of a node" in refused(capsys, "withdraw", "--node", str(tmp_path))
    (tmp_path / "rules.json").touch()
    assert main(["withdraw", "--node", str(tmp_path)]) == 0 and (tmp_path / "withdraw").exists()
    assert "asks the server in its next turn" in capsys.readouterr().out
    for wrong in (["--node", "x", "--registry", "y"], ["--client", "x"]):
        assert "give --node alone, or --registry" in refused(capsys, "withdraw", *wrong)


@pytest.mark.slow
def test_a_real_node_answers_turns_and_ends_with_0_when_it_is_stopped(member, tmp_path):
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path / "tiny"), lm.tokenizer.save_pretrained(tmp_path / "tiny")
    call = [sys.executable, "-m", "fleke_lib.federation", "node", *member, "--socket", str(tmp_path / "node")]
    around = os.environ | {"PYTHONPATH": str(ROOT), "FLEKE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    around |= {"TQDM_DISABLE": "1"}  # no bar while weights are loaded
    process = subprocess.Popen(
        call, env=around, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not (tmp_path / "node").exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.1)
    turn = Turn("ab", 1, "join", 0, first=(Answer(b""),) * 3).data
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(tmp_path / "node"))
        line.sendall(len(turn).to_bytes(8, "big") + turn)
        with line.makefile("rb") as answers:
            assert answers.read(1) == b"\0"
            reply = TurnReply.read(answers.read(int.from_bytes(answers.read(8), "big")))
    assert [kind for kind, _ in reply.calls] == ["deal"] * len(GROUP.members)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and out.startswith("ada: 0 own packets, 0 adopted")
    assert not (tmp_path / "node").exists() and (tmp_path / "memory").stat().st_mode & 0o777 == 0o700
