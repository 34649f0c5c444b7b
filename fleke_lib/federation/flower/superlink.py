"""Flower's SuperLink behind a door: from other machines it serves nodes alone.

A SuperLink answers three kinds of callers at one port. It authenticates SuperNodes by their keys. It does not
authenticate who registers nodes and starts runs: whoever reaches the port can start a run, whose code then works on the
server and on every node's machine. This program starts the SuperLink with its own arguments, and refuses everything but
what SuperNodes ask, unless the caller is on the server's own machine.

It is run as a file, because importing the library would load a model's worth of code into the server.
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

NODES = "/v1/fleet/"  # where SuperNodes call
HERE = ("127.0.0.1", "::1")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Callable, Send], Awaitable[None]]


class Door:
    """Passes on what nodes ask, and everything from this machine; all else gets the status 403."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Callable, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith(NODES) or self.near(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"only nodes are served from other machines"})
        else:
            await send({"type": "websocket.close", "code": 1008})

    @staticmethod
    def near(scope: Scope) -> bool:
        """Whether the caller is on this machine: at a loopback address, or at the one where it calls."""
        (caller, _), (called, _) = scope.get("client") or ("", 0), scope.get("server") or (None, 0)
        return caller in HERE or caller == called


def main() -> None:
    """Start the SuperLink with the door, by its one hook for it. Raises SystemExit if this Flower has no such hook."""
    from flwr.supercore.state.alembic import utils
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from starlette.middleware import Middleware

    if not hasattr(extensions, "get_middleware") or not hasattr(utils, "build_alembic_config"):
        sys.exit("this Flower has no place for the door: install the version in requirements-flower.lock.")
    others, config = extensions.get_middleware, utils.build_alembic_config
    extensions.get_middleware = lambda: (Middleware(Door), *others())
    utils.build_alembic_config = lambda engine: one_path_a_line(config(engine), utils.ALEMBIC_DIR)
    flower_superlink()


def one_path_a_line(config: Any, folder: Path) -> Any:
    """Flower lists the folders of its database's migrations between spaces, which breaks where its own path has one."""
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(folder / "versions"))
    return config


if __name__ == "__main__":
    main()
