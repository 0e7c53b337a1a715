"""The saga package alone: its imports, and a saga without agents."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_core.saga import Outcome, Presence, Sagas, Unwind, receipt

ALLOWED = {
    "orchestrator_core",
    "orchestrator_core.system",
    "orchestrator_core.system.clock",
    "orchestrator_core.system.deprecation",
    "orchestrator_core.system.durable",
    "orchestrator_core.system.json_values",
    "orchestrator_core.system.move",
    "orchestrator_core.system.os_errors",
    "orchestrator_core.system.surrogates",
    "orchestrator_core.exceptions",
    "orchestrator_core.system.names",
    "orchestrator_core.system.presence",
    "orchestrator_core.system.locks",
}


def test_an_import_of_the_saga_package_loads_only_the_rooms_below_it():
    """Neither libtmux, structlog nor portalocker is loaded."""
    program = "import sys, orchestrator_core.saga; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", program], text=True).split())

    imported = {name for name in loaded if name.split(".")[0] == "orchestrator_core"}
    assert ALLOWED == {name for name in imported if not name.startswith("orchestrator_core.saga")}
    assert set() == loaded & {"libtmux", "structlog", "portalocker", "psutil", "mcp", "subprocess"}


# --- a port, a directory and a file: unknown to the library --------------------------------


@receipt("test.port")
class Port:
    number: int = 0


class ReservePort:
    """Hold a TCP port of the loopback interface while this object lives."""

    receipt_type = Port

    def __init__(self):
        self.listening = {}

    def plan(self, _ctx):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return Port(number=probe.getsockname()[1])

    def do(self, port):
        self.listening[port.number] = socket.create_server(("127.0.0.1", port.number))
        return port

    def undo(self, port, _why):
        if port.number not in self.listening:
            return Outcome.absent()
        self.listening.pop(port.number).close()
        return Outcome.undone()

    def probe(self, port):
        return Presence.OURS if port.number in self.listening else Presence.ABSENT


@receipt("test.folder")
class Folder:
    path: str


class MakeFolder:
    receipt_type = Folder

    def plan(self, ctx):
        return Folder(path=str(ctx.values["place"] / ctx.saga_id))

    def do(self, folder):
        Path(folder.path).mkdir()
        return folder

    def undo(self, folder, _why):
        path = Path(folder.path)
        if not path.exists():
            return Outcome.absent()
        path.rmdir()
        return Outcome.undone()

    def probe(self, folder):
        return Presence.OURS if Path(folder.path).exists() else Presence.ABSENT


@pytest.fixture
def port():
    step = ReservePort()
    yield step
    for listening in step.listening.values():
        listening.close()


def can_connect(number):
    try:
        socket.create_connection(("127.0.0.1", number), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_port_and_a_folder_are_taken_and_released_together(tmp_path, port):
    folder = MakeFolder()
    sagas = Sagas(tmp_path / "sagas", steps=[folder, port])

    with sagas.begin("build-42", [folder, port], values={"place": tmp_path}) as saga:
        saga.run()
        saga.commit()
        number = saga.receipt(Port).number
    assert (True, True) == (can_connect(number), (tmp_path / "build-42").is_dir())

    sagas.unwind("build-42", Unwind.terminal("built"))
    assert (False, False) == (can_connect(number), (tmp_path / "build-42").exists())


def test_a_port_in_use_releases_the_folder(tmp_path, port):
    folder = MakeFolder()
    sagas = Sagas(tmp_path / "sagas", steps=[folder, port])

    def begun_too_late():
        with sagas.begin("build-42", [folder, port], values={"place": tmp_path}) as saga:
            taken = socket.create_server(("127.0.0.1", saga.receipt(Port).number))
            with taken:
                saga.run()

    with pytest.raises(OSError, match="in use"):
        begun_too_late()

    assert not (tmp_path / "build-42").exists()
