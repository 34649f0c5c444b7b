"""The ServerApp: the desk over Flower's grid. Only this, `flower.relay` and `flower.superlink` import Flower.

A message and its reply hold one record with one entry: the bytes of a turn or of its reply. Flower's SuperLink
authenticates each SuperNode by its key, and the server knows a member by that key (`settings.save_group`). What the
server is told stands in the run's configuration. Its lines go to a file, which `flower.progress` reads.
"""

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from fleke_lib.federation.flower.bounds import agreement, load_rules, load_sum_rules
from fleke_lib.federation.flower.desk import Desk, Unreached
from fleke_lib.federation.flower.progress import Progress
from fleke_lib.federation.flower.relay import BYTES, RECORD
from fleke_lib.federation.flower.settings import load_group
from fleke_lib.federation.flower.summing_desk import SummingDesk
from fleke_lib.federation.flower.sums_server import SummingServer
from fleke_lib.federation.sealing.exchange import BlindServer
from fleke_lib.federation.sealing.keys import Group
from fleke_lib.federation.sealing.store import SealedStore

KIND = "query"  # Flower's name for a message that is neither training nor evaluation
NONE = ""  # the id of a message that could not be sent
LOOK = 0.3  # seconds between two looks for a reply, where few are waited for

server_app = ServerApp()


def unpacked(message: Message) -> bytes | str:
    """The bytes of a message, or in words why there are none."""
    if message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE:
        return Unreached(f"the node could not be reached ({message.error.reason})")
    if message.has_error():
        return f"the node's app has failed ({message.error.reason})"
    record = message.content.config_records.get(RECORD) if message.has_content() else None
    data = None if record is None else record.get(BYTES)
    return data if isinstance(data, bytes) else "the message holds no bytes of a turn"


class GridTransport:
    """Turns over Flower's grid.

    Each reply is waited for in a thread of its own. A node that is killed while it uploads has announced its reply, and
    Flower then waits for the rest for three minutes; nobody else may wait with it.

    Args:
        keys: by member, its SuperNode's public key in PEM.
    """

    def __init__(self, grid: Grid, keys: Mapping[str, str]) -> None:
        self._grid = grid
        self._members = {key.strip().encode(): name for name, key in keys.items() if key.strip()}
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}  # by member, the id of the last message to it
        self._waiting: dict[str, str] = {}  # the same, while no reply to it has come
        self._come: queue.SimpleQueue[tuple[str, str, bytes | str]] = queue.SimpleQueue()

    def alive(self) -> list[str]:
        """The members whose SuperNodes are online, by their keys."""
        found = {self._members.get(bytes(node.public_key).strip()): node.node_id for node in self._grid.get_nodes()}
        self._ids = {name: id for name, id in found.items() if name is not None}
        return sorted(self._ids)

    def send(self, turns: Mapping[str, bytes]) -> None:
        """Send one message to each member, in one call; one by one if that fails. Who cannot be sent its turn is late.

        Flower's calls fail where the SuperLink is slow: a retried upload is refused as one that is there already. A
        member that gets its turn twice gives the same reply twice.
        """
        content = (RecordDict({RECORD: ConfigRecord({BYTES: data})}) for data in turns.values())
        messages = [Message(one, self._ids[name], KIND) for name, one in zip(turns, content, strict=True)]
        try:
            ids = list(self._grid.push_messages(messages))
        except Exception as error:  # Flower's own, of many kinds
            if len(turns) == 1:
                (name,) = turns
                self._last[name] = NONE
                self._come.put((name, NONE, Unreached(f"its turn could not be sent ({error})")))
            else:
                for name, data in turns.items():
                    self.send({name: data})
            return
        for name, id in zip(turns, ids, strict=True):
            with self._lock:
                self._waiting[name] = self._last[name] = id
            threading.Thread(target=self._wait, args=(name, id), daemon=True).start()

    def replies(self) -> dict[str, bytes | str]:
        """The replies that have come, each from the node that its message was sent to."""
        found: dict[str, bytes | str] = {}
        while not self._come.empty():
            name, id, reply = self._come.get()
            if self._last.get(name) == id:  # a reply to an earlier message would count as one to the last
                found[name] = reply
        return found

    def _wait(self, name: str, id: str) -> None:
        """Look for the reply to a message until it is there, or a newer message has been sent to the member."""
        while self._waiting.get(name) == id:
            try:
                found = [unpacked(message) for message in self._grid.pull_messages([id])]
            except Exception as error:  # Flower's own, of many kinds; the member is late
                found = [f"its reply could not be fetched ({error})"]
            with self._lock:  # or the next message, sent in between, would count as answered
                if found and self._waiting.get(name) == id:
                    del self._waiting[name]
                    self._come.put((name, id, found[0]))
            time.sleep(LOOK * max(1.0, len(self._waiting) / 4))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all slots, with sealed packets or with sums, as the rules say.

    The run's configuration has registry and progress (files), group, rules, slots, nodes (how many to wait for at the
    beginning) and patience (seconds for a turn).
    """
    told = {name: str(value) for name, value in context.run_config.items()}
    progress = Progress(Path(told["progress"]))
    try:
        group, keys = load_group(Path(told["group"]))
        transport, wait = GridTransport(grid, keys), (int(told["nodes"]), float(told["patience"]))
        how = (tuple(group.members), transport, *wait, progress.line, progress.status)
        with _desk(told, group, how) as desk:
            progress.end(len(desk.run(int(told["slots"]))), len(group.members))
    except Exception as error:
        progress.failed(error)
        raise


@contextmanager
def _desk(told: Mapping[str, str], group: Group, how: tuple) -> Iterator[Desk | SummingDesk]:
    """The desk for the protection that the rules say."""
    rules, summed = load_rules(Path(told["rules"])), load_sum_rules(Path(told["rules"]))
    if summed is not None:
        yield SummingDesk(SummingServer(rules, group, agreement(rules, summed, group)), *how)
        return
    with SealedStore(told["registry"], rules, group) as store:
        yield Desk(BlindServer(store), *how)
