"""The image file and the compose file of `deploy/`: they fit the repository, and are built where the machine allows it.

The linter of the image file comes with Flower's environment: tests/federation/faults/test_deploy.py calls it.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fleke_lib.federation.__main__ import parser

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, with their lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_compose_file_fits_its_schema():
    call = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*call, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_copies_what_is_there_and_runs_as_no_root():
    made = instructions()
    assert made[0][0] == "FROM" and re.fullmatch(r"python:3\.\d+-slim-\w+", made[0][1])
    known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in made} <= known
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    for word, rest in made:
        for name in rest.split()[:-1] if word == "COPY" else ():
            assert (ROOT / name).exists() and (f"!{name}" in ignored or name.endswith(".lock"))
    users = [rest for word, rest in made if word == "USER"]
    assert users == ["10001"] and any(f"useradd --create-home --uid {users[0]} fleke" in rest for _, rest in made)
    last = {word: i for i, (word, _) in enumerate(made)}
    assert last["USER"] > last["RUN"], "everything is installed by root, and nothing runs as root"


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_the_services_call_commands_with_arguments_that_exist(service):
    about = COMPOSE["services"][service]
    values = {"SLOTS": "2", "PER_SLOT": "1", "SUPERLINK": "hub:8000", "MEMBER": "bern"}
    call = [re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values[found[1]], word) for word in about["command"]]
    options = vars(parser().parse_args(call))
    assert options["command"] == service
    assert about["read_only"] and about["cap_drop"] == ["ALL"] and "image" in about


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker on this machine.")
def test_the_image_is_built_and_runs_where_the_machine_allows_it():
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no daemon on this machine.")
    build = ["docker", "build", "-f", str(DEPLOY / "Dockerfile"), "-t", "fleke-test", str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and "resolve" in done.stderr:
        pytest.skip("docker reaches no registry on this machine.")
    assert done.returncode == 0, done.stderr[-3000:]
    said = subprocess.run(["docker", "run", "--rm", "fleke-test", "--help"], capture_output=True, text=True, check=True)
    assert "verify-certificate" in said.stdout
