"""Found by every process of a fault test through PYTHONPATH: places where a test can hold a process, and a wrong clock.

A process that comes to a place for which `FLEKE_HOLDS/hold/PLACE` exists makes `held/PLACE`, and waits until the first
file is gone. `FLEKE_HOLDS/clock-NAME` has the seconds by which the clock of a SuperNode is wrong. Nothing is imported
early: a module is changed when somebody imports it.
"""

import datetime
import importlib.util
import os
import re
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path

HOLDS = Path(os.environ.get("FLEKE_HOLDS", "/nowhere"))


def hold(place: str) -> None:
    """Wait at a place as long as the test says."""
    if (HOLDS / "hold" / place).exists():
        (HOLDS / "held" / place).touch()
        while (HOLDS / "hold" / place).exists():
            time.sleep(0.05)


def own_name() -> str:
    """The hospital whose SuperNode this process is."""
    found = re.search(r"(hospital-\d+|stranger)\.key", " ".join(sys.argv))
    return found.group(1) if found else ""


def in_node(module) -> None:
    provide = module.Node._provide

    def held(self, facts, *starts):
        found = provide(self, facts, *starts)
        if facts:
            hold(f"{self.client.name}-computing")
        return found

    module.Node._provide = held


def in_desk(module) -> None:
    turn = module.TurnDesk.turn

    def held(self, what, slot, *replied):
        hold(f"desk-{what}-{slot}")
        if (HOLDS / "patience").exists():
            self.patience = float((HOLDS / "patience").read_text())
        return turn(self, what, slot, *replied)

    module.TurnDesk.turn = held


def in_upload(module) -> None:
    push = module.FleetHttpClient.PushObject

    def held(self, request):
        hold(f"{own_name()}-uploading")
        return push(self, request)

    module.FleetHttpClient.PushObject = held


def in_clock(module) -> None:
    right = module.now

    def wrong():
        file = HOLDS / f"clock-{own_name()}"
        return right() + datetime.timedelta(seconds=float(file.read_text()) if file.exists() else 0)

    module.now = wrong


CHANGES = {
    "fleke_lib.federation.flower.node": in_node,
    "fleke_lib.federation.flower.desk": in_desk,
    "flwr.supernode.fleet_http_client": in_upload,
    "flwr.supercore.date": in_clock,
}


class Changed(MetaPathFinder):
    """Finds these modules as everybody else does, and changes them after they were executed."""

    def find_spec(self, name, path=None, target=None):
        if name not in CHANGES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def then(module):
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = then
        return spec


if "FLEKE_HOLDS" in os.environ:
    sys.meta_path.insert(0, Changed())
