"""A federation over machines: the clients and the blind server of `federation`, carried by Flower in turns.

In Flower the server speaks and nodes reply, while a client calls its server. `flower.turns` says how calls travel in
replies and their answers in the next turn. `flower.node` and `flower.desk` are the two sides; neither imports Flower.
A node is a process of its own, which holds the model (`flower.listening`). Flower's own processes carry bytes to and
from it (`flower.relay`, `flower.apps`).

Under the protection *summed* other turns carry masked sums: `flower.sums` has the messages, `flower.summing_node`,
`flower.sums_server` and `flower.summing_desk` the two sides.
"""

from fleke_lib.federation.flower.desk import Desk
from fleke_lib.federation.flower.node import Node, NodeSettings
from fleke_lib.federation.flower.turns import Answer, Call, Turn, TurnReply

__all__ = ["Answer", "Call", "Desk", "Node", "NodeSettings", "Turn", "TurnReply"]
