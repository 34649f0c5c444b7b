"""The house: which rooms there are, in which order they stand on each other, and that every name of a place is true."""

import ast
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "fleke_lib"
# From the ground up: a room imports from those that stand before it, and from itself.
ROOMS = (
    "storage",
    "ridge",
    "model",
    "course",
    "facts",
    "evaluation",
    "locate",
    "mkv",
    "edit",
    "",  # fleke_lib itself: the names that one session needs
    "tune",
    "federation.packets",
    "federation.registry",
    "federation.retrieval",
    "federation.sealing",
    "federation",
    "federation.flower",
    "unlearn",
    "unlearn.classifier",
    "unlearn.edits",
    "privacy.attacks",
    "privacy",
    "beyond",
    "figures",
    "reproduce.scenarios",
    "reproduce.papers",
    "reproduce.tables",
    "reproduce",
    "commands",
)
LONGEST = 300  # lines of a file
# a file a method, named after its one function
METHODS = {"alphaedit", "blue", "emmet", "finetune", "locft_bf", "memit", "memory", "pmet", "rome"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def room_of(module: str) -> str:
    if module.endswith(".__main__"):
        return "commands"  # `python -m` finds it in another room, but it calls what stands on top, and nothing calls it
    inside = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return inside.removeprefix("fleke_lib").removeprefix(".")


def imports(module: str) -> set[str]:
    """The library's modules that a module imports, wherever in its source."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively: name the whole path."
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
    return {name for name in found if name in MODULES and name != module}


def arrows() -> dict[str, set[str]]:
    """Of each room, the others that it imports from; `from room import module` is an arrow to the module's room."""
    found = defaultdict(set)
    for module in MODULES:
        here = imports(module)
        inner = {name for name in here if not any(other.startswith(f"{name}.") for other in here)}
        found[room_of(module)] |= {room_of(name) for name in inner} - {room_of(module)}
    return found


def test_no_import_goes_up(capsys):
    to = arrows()
    up = [(room, other) for room in to for other in to[room] if ROOMS.index(other) > ROOMS.index(room)]

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in to[room] if (room, other) not in up), default=-1)

    lines, files = defaultdict(int), defaultdict(int)
    for module, path in MODULES.items():
        lines[room_of(module)] += len(path.read_text().splitlines())
        files[room_of(module)] += 1
    with capsys.disabled():
        print(f"\n\n{'room':<22}{'floor':>6}{'files':>6}{'lines':>7}   stands on")
        for room in sorted(ROOMS, key=lambda room: (floor(room), ROOMS.index(room))):
            below = ", ".join(sorted(to[room], key=ROOMS.index))
            print(f"{room or 'fleke_lib':<22}{floor(room):>6}{files[room]:>6}{lines[room]:>7}   {below}")
        floors, number = 1 + max(map(floor, ROOMS)), sum(map(len, to.values()))
        print(f"{len(ROOMS)} rooms, {floors} floors, {number} arrows, {len(up)} of them up\n")
    assert not up


def test_every_folder_is_a_known_room_that_says_what_belongs_in_it():
    assert {room_of(module) for module in MODULES} == set(ROOMS)
    for room in ROOMS:
        front = MODULES[f"fleke_lib.{room}".rstrip(".")]
        assert front.name == "__init__.py"
        assert ast.get_docstring(ast.parse(front.read_text()))


def test_a_file_is_one_idea():
    assert {m: n for m, path in MODULES.items() if (n := len(path.read_text().splitlines())) > LONGEST} == {}


def test_a_class_has_a_name_of_its_own():
    places = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_shows_is_there_and_hides_none_of_its_modules(room):
    package = importlib.import_module(f"fleke_lib.{room}".rstrip("."))
    shown = getattr(package, "__all__", [])
    assert sorted(shown) == sorted(set(shown))
    for name in shown:
        thing = getattr(package, name)
        module = f"{package.__name__}.{name}"
        assert module not in MODULES or name in METHODS or thing is importlib.import_module(module)


def texts() -> list[Path]:
    """Everything in the repository that is written by hand and may name a place in the library."""
    endings = {".py", ".md", ".ipynb", ".toml", ".yml", ".txt"}
    places = ("fleke_lib", "notebooks", "tests", "docs", "data", "tools", "benchmarks", ".github")
    files = [path for place in places for path in (ROOT / place).rglob("*") if path.suffix in endings]
    top = [path for path in ROOT.iterdir() if path.suffix in endings or path.name == "Makefile"]
    return [path for path in files + top if ".ipynb_checkpoints" not in path.parts]


def test_every_place_in_the_library_that_a_text_names_is_there():
    wrong = []
    for path in texts():
        text = path.read_text(encoding="utf-8")
        for name in set(re.findall(r"\bfleke_lib/[\w/]+\.py", text)):
            if not (ROOT / name).exists() and path.name != "test_recipes.py":  # which makes one
                wrong.append((path.name, name))
        for name in set(re.findall(r"\bfleke_lib(?:\.\w+)+", text)):
            if not resolves(name):
                wrong.append((path.name, name))
    assert wrong == []


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module not in MODULES:
            continue
        try:
            thing = importlib.import_module(module) if not module.endswith("__main__") else None
        except ModuleNotFoundError as error:
            assert error.name == "flwr"  # which has an environment of its own; the source is enough
            source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
            return all(re.search(rf"^(?:class |def )?{name}\b", source, re.MULTILINE) for name in parts[end : end + 1])
        for name in parts[end:]:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


def test_importing_the_library_loads_no_model_code():
    """It would double the time that every command needs to start."""
    look = "import sys, fleke_lib.federation; print(*{'peft', 'transformers.modeling_utils'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
