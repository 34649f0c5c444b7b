"""The ClientApp: it carries a turn to the node's own process on the same machine, and the reply back.

Flower starts a process for every message, with code that came from the server. This one therefore imports nothing of
the library, which would load a model's worth of code every time, and holds no fact and no key. All that it is told is
the path of a socket, which `flower.listening` serves. Both sides write a length of eight bytes and then so many bytes;
before a reply stands one byte, which is 1 if the node refused the turn and the bytes say why.
"""

import socket

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

RECORD, BYTES = "fleke", "bytes"  # the one entry of a message; `flower.apps` reads and writes the same

client_app = ClientApp()


@client_app.query()
def reply(message: Message, context: Context) -> Message:
    """A node's reply to a turn. Raises ValueError if the node refuses it, or is not there."""
    data = message.content.config_records[RECORD][BYTES]
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(str(context.node_config["socket"]))
        except OSError as error:
            raise ValueError(f"the node's process is not there ({error})") from None
        line.sendall(len(data).to_bytes(8, "big") + data)
        with line.makefile("rb") as answers:
            refused, size = answers.read(1), int.from_bytes(answers.read(8), "big")
            answer = answers.read(size)
    if refused not in (b"\0", b"\1") or len(answer) != size:
        raise ValueError("the node's process has ended during the turn")
    if refused == b"\1":
        raise ValueError(answer.decode())
    return Message(RecordDict({RECORD: ConfigRecord({BYTES: answer})}), reply_to=message)
