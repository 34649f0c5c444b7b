"""`python -m fleke_lib.federation` on a registry's file: what each command does, prints and returns."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fleke_lib.commands import adopt, publish
from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.facts.loading import load_facts
from fleke_lib.federation.__main__ import COMMANDS, main, parser
from fleke_lib.federation.packets.packet import Packet, pack
from fleke_lib.federation.packets.tags import Tags
from fleke_lib.federation.provider import VectorProvider
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.sealing.store import SealedStore
from fleke_lib.unlearn.edits.certificate import Certificate
from fleke_lib.unlearn.edits.traces import traces
from tests.commands.site import NAMES, SECRET, set_up
from tests.federation.sample_packets import RULES, packet_of
from tests.federation.sealing.members import GROUP, channel_of
from tests.federation.small import scenario

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which three clients have published, and the cache that their vectors went to."""
    folder = set_up(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEKE_CACHE", str(folder / "cache"))
        for command in (publish, adopt):
            patch.setattr(command, "load_model", lambda name: {"tiny": scenario()[0]}[name])
        for slot, name in enumerate(NAMES):
            assert main(["publish", *client(folder, name), "--slot", str(slot)]) == 0
        yield folder


def client(folder, name, registry="r.db"):
    return [
        *("--registry", str(folder / registry), "--client", name, "--facts", str(folder / f"{name}.json")),
        *("--secret", str(folder / "secret.bin"), "--model", "tiny"),
    ]


def copied(site, name):
    """The registry under another name, to be changed."""
    (site / name).write_bytes((site / "r.db").read_bytes())
    return str(site / name)


def said(capsys, *arguments, status=0):
    """What a command prints; `status` is expected of it."""
    capsys.readouterr()
    assert main([*arguments]) == status
    out, err = capsys.readouterr()
    return err if status == 2 else out


def test_what_is_published_are_the_packets_of_the_facts_and_twice_changes_nothing(site, capsys):
    lm = scenario()[0]
    facts = load_facts(site / "bern.json")
    prepared = VectorProvider(lm)(facts)
    tags = [{"question": Tags(SECRET).question(fact), "answer": Tags(SECRET).answer(fact)} for fact in facts]
    expected = {pack(p.trajectory, p.mkv, "bern", 0, t).id for p, t in zip(prepared, tags, strict=True)}
    with Registry(site / "r.db") as registry:
        assert set(registry.vectors(client="bern").ids) == expected and len(registry) == 6
    assert "0 packets published, 2 were there" in said(capsys, "publish", *client(site, "bern"))
    with Registry(site / "r.db") as registry:
        assert len(registry) == 6


@pytest.mark.parametrize(("policy", "expected"), [("everyone", 4), ("nobody", 0)])
def test_an_adopted_edit_is_that_of_own_and_adopted_packets(site, capsys, tmp_path, policy, expected):
    to = tmp_path / "edit.safetensors"
    out = said(capsys, "adopt", *client(site, "bern"), "--policy", policy, "--to", str(to))
    assert f"2 own packets, {expected} adopted" in out
    lm = scenario()[0]
    with Registry(site / "r.db") as registry:
        ids = registry.vectors().ids if expected else registry.vectors(client="bern").ids
        packets = sorted(map(Packet.read, registry.get(ids)), key=lambda packet: packet.content)
    solved, edit = within_budget(lm, packets, second_moments(lm)), Edit.load(to)
    assert edit.layers == solved.layers == lm.preset.layers
    assert all(torch.equal(edit.delta(layer), solved.delta(layer)) for layer in edit.layers)
    with edit.applied(lm):
        assert lm.edits
    assert said(capsys, "status", "--registry", str(site / "r.db")).startswith(f"{site / 'r.db'}: 6 plain packets")


def test_who_has_not_published_cannot_adopt(site, capsys, tmp_path):
    registry = copied(site, "less.db")
    said(capsys, "withdraw", "--registry", registry, "--client", "bern")
    call = [*client(site, "bern", "less.db"), "--to", str(tmp_path / "edit")]
    assert "2 of these facts are in no packet" in said(capsys, "adopt", *call, status=2)
    assert not (tmp_path / "edit").exists()


def test_a_withdrawal_erases_is_pending_until_completed_and_has_a_certificate(site, capsys, tmp_path):
    registry, certificate = copied(site, "gone.db"), tmp_path / "withdrawal.json"
    signed = ["--certificate", str(certificate), "--key", str(site / "key.pem")]
    out = said(capsys, "withdraw", "--registry", registry, "--client", "genf", *signed)
    assert "request 1: 2 packets erased" in out and out.count("holds:") == 3 and "FAILS" not in out
    with Registry(registry) as opened:
        assert {name for name, _, _ in opened.counts()} == {"bern", "zug"}
    stated = Certificate.load(certificate)
    with Registry(site / "r.db") as opened:
        gone, kept = (opened.get(opened.vectors(**one).ids) for one in ({"client": "genf"}, {"not_client": "genf"}))
    before = traces(site / "r.db", [*map(Packet.read, gone)], [*map(Packet.read, kept)])
    searched = stated.checks[-1].figures
    assert before.found and stated.packets == 2, "the same search finds them where they are"
    assert (searched["pieces searched"], searched["traces"]) == (before.pieces, 0)
    assert "withdrawal 1 of 2 packets is pending" in said(capsys, "status", "--registry", registry)
    assert "request 1 is complete" in said(capsys, "withdraw", "--registry", registry, "--complete", "1")
    assert "pending" not in said(capsys, "status", "--registry", registry)
    assert "not pending" in said(capsys, "withdraw", "--registry", registry, "--complete", "1", status=2)

    verify = ["verify-certificate", str(certificate), "--public-key"]
    assert "withdrawal of genf, 2 packets" in said(capsys, *verify, str(site / "public.pem"))
    assert "not a public Ed25519 key" in said(capsys, *verify, str(site / "key.pem"), status=2)
    certificate.write_bytes(certificate.read_bytes().replace(b'"genf"', b'"bern"'))
    said(capsys, *verify, str(site / "public.pem"), status=1)


def test_single_packets_are_withdrawn_by_their_ids(site, capsys):
    registry = copied(site, "single.db")
    with Registry(registry) as opened:
        gone, *kept = opened.vectors().ids
    assert "1 packets erased" in said(capsys, "withdraw", "--registry", registry, "--packets", gone)
    with Registry(registry) as opened:
        assert [*opened.vectors().ids] == kept
    assert "was never here" in said(capsys, "withdraw", "--registry", registry, "--packets", "0" * 64, status=2)


def test_status_and_withdraw_know_a_sealed_file(tmp_path, capsys):
    path = tmp_path / "sealed.db"
    with SealedStore(path, RULES, GROUP) as store:
        for name in ("ada", "bob"):
            channel_of(store, name).put(packet_of(1, name).data)
    assert "2 sealed packets" in said(capsys, "status", "--registry", str(path))
    assert "sealed packets, which only" in said(
        capsys, "adopt", "--registry", str(path), "--client", "ada", *("--facts", "f", "--secret", str(path)),
        *("--to", "e"), status=2,
    )  # fmt: skip
    said(capsys, "withdraw", "--registry", str(path), "--client", "ada")
    assert "ada" not in said(capsys, "status", "--registry", str(path))


def test_a_damaged_file_is_said_to_be_and_the_status_is_1(site, capsys):
    registry = copied(site, "damaged.db")
    with sqlite3.connect(registry) as db:
        db.execute("UPDATE packets SET slot = 7 WHERE client = 'zug'")
    db.close()
    assert "damaged: packet" in said(capsys, "status", "--registry", registry, status=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--registry": "{}/none.db"}, "there is no registry"),
        ({"--secret": "{}/short.bin"}, "a secret needs 16 or more"),
        ({"--facts": "{}/none.json"}, "none.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_status_2(site, capsys, change, message):
    (site / "short.bin").write_bytes(b"short")
    given = client(site, "bern")
    values = dict(zip(given[::2], given[1::2], strict=True)) | {k: v.format(site) for k, v in change.items()}
    call = [word for pair in values.items() for word in pair]
    err = said(capsys, "adopt", *call, "--to", str(site / "edit"), status=2)
    assert message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("policy", ["no-such", "top:many", "top", "majority:x", "everyone:1"])
def test_a_policy_that_is_none_is_refused_with_all_that_are(policy, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["adopt", *client(Path(), "x"), "--to", "e", "--policy", policy])
    assert stopped.value.code == 2 and "threshold:TAU" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_says_what_it_does(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args([command, "--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and COMMANDS[command].__doc__.partition("\n")[0] in out and "--" in out


def test_a_real_process_answers_with_its_exit_status(site):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*arguments):
        call = [sys.executable, "-m", "fleke_lib.federation", *arguments]
        return subprocess.run(call, cwd=site, env=environment, capture_output=True, text=True, check=False)

    done = run("status", "--registry", "r.db")
    assert (done.returncode, done.stderr) == (0, "") and "bern: 2 in slot 0" in done.stdout
    wrong = run("status", "--registry", "none.db")
    assert wrong.returncode == 2 and wrong.stdout == "" and "Traceback" not in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1 and not (site / "none.db").exists()
    assert run().returncode == 2
