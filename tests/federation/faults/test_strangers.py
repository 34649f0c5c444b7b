"""Who may not come in: without a key, with another key, under a wrong or an expired certificate, with a wrong clock.

Each is a real SuperNode that calls a real SuperLink. It is refused with a reason and once, and the hospital whose keys
are right is served meanwhile.
"""

import re
import shutil
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from fleke_lib.federation.flower.processes import (
    SILENT,
    connection,
    environment,
    free_port,
    program,
    superlink,
    supernode,
    wait_for,
)
from tests.federation.faults.hospitals import until, with_holds
from tools.federation.certificates import certificates, node_key
from tools.federation.processes import Processes

pytestmark = [pytest.mark.flower, pytest.mark.slow]


def expired(folder: Path) -> None:
    """A server's certificate for loopback by an authority of its own, which was valid until yesterday."""
    key, names = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(names, names, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now - timedelta(days=9)).not_valid_after(now - timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    place = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = builder.add_extension(place, critical=False).sign(key, SHA256())
    folder.mkdir()
    (folder / "ca.crt").write_bytes(made.public_bytes(Encoding.PEM))
    shutil.copy(folder / "ca.crt", folder / "server.crt")
    (folder / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert load_pem_private_key((folder / "server.key").read_bytes(), None)


@dataclass
class Site:
    """What the callers' logs say, how they have ended, and what the SuperLink says."""

    folder: Path
    port: int
    ended: dict[str, int | None]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A SuperLink that knows two hospitals' keys, one hospital that is right, and everybody who is not."""
    folder = tmp_path_factory.mktemp("strangers")
    for name in ("hospital-0", "hospital-1", "stranger"):
        node_key(folder / f"{name}.key")
    (folder / "other").mkdir()
    expired(folder / "old"), certificates(folder / "other"), certificates(folder)
    processes = Processes(folder, with_holds(folder, environment(folder / "flower")))
    try:
        port, old = free_port(), free_port()
        files = ("ca.crt", "server.crt", "server.key")
        for name, at, where in (("link", port, folder), ("old-link", old, folder / "old")):
            database = folder / f"{name}.db"
            processes.start(name, superlink("127.0.0.1", at, database, *(where / file for file in files)))
            wait_for("127.0.0.1", at, processes.running[name], 600)
        connection(folder / "flower", f"127.0.0.1:{port}", folder / "ca.crt")
        for name in ("hospital-0", "hospital-1"):
            processes.call([program("flwr"), "supernode", "register", str(folder / f"{name}.pub"), "here"])
        (folder / "clock-hospital-1").write_text(str(-7200.0))
        callers = {
            "right": (port, folder, "hospital-0"),
            "stranger": (port, folder, "stranger"),
            "late": (port, folder, "hospital-1"),
            "misled": (port, folder / "other", "hospital-1"),
            "expired": (old, folder / "old", "hospital-1"),
            "keyless": (port, folder, "stranger"),
        }
        for name, (at, where, key) in callers.items():
            to = (f"127.0.0.1:{at}", where / "ca.crt", folder / f"{key}.key", free_port(), folder / "none")
            command = supernode(*to)
            if name == "keyless":
                place = command.index("--auth-supernode-private-key")
                del command[place : place + 2]
            processes.start(name, command)
        for name in [*callers][1:]:
            until(lambda name=name: processes.running[name].poll() is not None, 600, f"{name} has ended")
        made = Site(folder, port, {name: processes.running[name].poll() for name in callers})
        until(lambda: "SuperNode ID" in made.log("right"), 600, "the right one is in")
        yield made
    finally:
        processes.stop()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stranger", "Failed to activate SuperNode"),
        ("keyless", "All SuperNodes must be registered"),
        ("misled", "certificate verify failed: unable to get local issuer certificate"),
        ("expired", "certificate verify failed: certificate has expired"),
    ],
)
def test_who_may_not_come_in_ends_with_a_reason_said_once(site, name, reason):
    assert site.ended[name] not in (None, 0)
    assert site.log(name).count(reason) == 1, site.log(name)


def test_whose_clock_is_wrong_ends_too(site):
    """Flower says no reason to it, therefore `processes.SILENT` does."""
    assert site.ended["late"] is not None and "SuperNode ID" not in site.log("late")
    assert "a clock is" in SILENT


def test_whose_key_is_known_is_served_meanwhile(site):
    assert site.ended["right"] is None and "SuperNode ID" in site.log("right")


def test_the_server_has_logged_each_refusal_once(site):
    """One line for each of the three that reached it; the others did not trust it."""
    calls = [
        line for line in site.log("link").splitlines() if re.search("POST /v1/fleet/(activate|register)-node", line)
    ]
    assert sorted(line.split()[-1] for line in calls) == ["200", "401", "412", "412"], calls


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push-log", "/docs"]
)
def test_from_another_address_nobody_starts_a_run(site, path):
    import httpx

    verify = ssl.create_default_context(cafile=site.folder / "ca.crt")
    for address, status in (("127.0.0.2", 403), ("127.0.0.1", None)):
        transport = httpx.HTTPTransport(verify=verify, local_address=address)
        with httpx.Client(transport=transport, base_url=f"https://127.0.0.1:{site.port}") as client:
            found = client.post(path).status_code
        assert found == status if status else found != 403, path
