"""The door before the SuperLink: nodes come in from everywhere, and who starts runs from the same machine alone."""

import asyncio

import pytest

from fleke_lib.federation.flower.superlink import Door, one_path_a_line


def answered(path, client, server="10.0.0.5", kind="http"):
    """What is sent to a caller, and whether the SuperLink itself was asked."""
    sent, asked = [], []

    async def link(scope, receive, send):
        asked.append(scope["path"])

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "client": client and (client, 5000), "server": (server, 8000)}
    asyncio.run(Door(link)(scope, None, send))
    return sent, bool(asked)


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push", "/docs", "/"]
)
@pytest.mark.parametrize("client", ["10.0.0.9", "127.0.0.2", "", None])
def test_from_elsewhere_only_nodes_are_served(path, client):
    sent, asked = answered(path, client)
    assert not asked and sent[0]["status"] == 403
    assert answered("/v1/fleet/activate-node", client) == ([], True)
    assert answered(path, client, kind="websocket")[0][0]["type"] == "websocket.close"


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "10.0.0.5"])
def test_from_the_same_machine_everything_is_served(client):
    assert answered("/v1/control/start-run", client) == ([], True)


@pytest.mark.parametrize("path", ["/v1/fleet", "/v1/fleetx/", "/v1/fleet/../control/start-run", "//v1/fleet/"])
def test_paths_that_look_alike(path):
    """A path with dots is passed on as it is: the SuperLink resolves none, and knows no such route."""
    assert answered(path, "10.0.0.9")[1] == path.startswith("/v1/fleet/")


@pytest.mark.flower
def test_a_path_with_a_space_is_one_path(tmp_path):
    """Flower's own list would be split at the space, and its database would have no tables."""
    config = pytest.importorskip("alembic.config").Config()
    config.set_main_option("version_locations", f"{tmp_path / 'a checkout'}")
    one_path_a_line(config, tmp_path / "a checkout, and more")
    assert config.get_version_locations_list() == [str(tmp_path / "a checkout, and more" / "versions")]
