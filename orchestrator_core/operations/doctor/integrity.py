"""Checks of what is written: whether it can be read, and what was set aside as damaged."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.exceptions import (
    OrchestratorError,
    RegistryDamaged,
    SagaError,
    StorageError,
)
from orchestrator_core.model.layout import SCHEMA_VERSION
from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    ok,
    shorten_list,
    unknown,
    warning,
    worst_of,
)
from orchestrator_core.operations.metrics.summary import Summary
from orchestrator_core.registry import global_registry, task_registry
from orchestrator_core.registry.snapshot_cache import read_snapshot
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.model.layout import Layout
    from orchestrator_core.registry import Registry


# --- root.json --------------------------------------------------------------------------------


def root_file(subject: Environment) -> Answer:
    """See whether the root's id and its socket are known: they lead to living agents."""
    layout = subject.layout
    if layout is None:
        return ok("there is no root yet")
    found = subject.fixed
    if isinstance(found, tuple):
        return ok(f"root {found[0]}")
    if found is None:
        if not any(layout.sagas.glob(f"*{SUFFIX}")):
            return ok("not there yet: it is made when the root is first used")
        trouble = f"{layout.root_file} is gone, and agents are deployed here"
        return failed(trouble, _write_back(layout))
    if isinstance(found, RegistryDamaged):
        return failed(str(found), _write_back(layout))
    return failed(str(found), found.hint or "see what the message names")


def _write_back(layout: Layout) -> str:
    """Return how to write it again, from what agents' files say."""
    root_id, socket = _root_id(layout), _socket(layout)
    if root_id is None or socket is None:
        return "write back its schema_version, root_id and tmux_socket; if no agent runs, remove it"
    document = {"schema_version": SCHEMA_VERSION, "root_id": root_id, "tmux_socket": socket}
    text = msgspec.json.encode(document).decode()
    return f"printf '%s\\n' {shlex.quote(text)} > {shlex.quote(str(layout.root_file))}"


def _root_id(layout: Layout) -> str | None:
    """Return the root's id as the journals have it: it is in every cookie."""
    for pattern in ("*", "closed/*"):
        for path in layout.sagas.glob(f"{pattern}{SUFFIX}"):
            found = re.search(rb'"cookie":"oc_([0-9a-f]{8})_', _bytes(path))
            if found:
                return found[1].decode()
    return None


def _socket(layout: Layout) -> str | None:
    """Return the root's socket as it is in the record of some deployment."""
    for pattern in ("logs", "archive"):
        for path in layout.root.glob(f"TASK-*/{pattern}/deploy_*.json"):
            found = re.search(rb'"tmux_socket": *("[^"]+")', _bytes(path))
            if found:
                return msgspec.json.decode(found[1], type=str)
    return None


def _bytes(path: Path) -> bytes:
    try:
        return durable.read(path)
    except (FileNotFoundError, StorageError):
        return b""


# --- registries -------------------------------------------------------------------------------


def registries(subject: Environment) -> Answer:
    """See whether each registry can be used."""
    layout = subject.layout
    if layout is None:
        return ok("there is no root yet")
    answers: list[Answer] = []
    task_ids = layout.task_ids()
    for task_id in task_ids:
        answers += _registry(task_registry(layout, task_id), f"--task {task_id}")
    if layout.global_registry.parent.is_dir():
        answers += _registry(global_registry(layout), "--global")
        answers += _statistics(layout.statistics)
    return worst_of(answers, well=f"{len(task_ids)} tasks' and the global one can be used")


def _registry(registry: Registry, which: str) -> Iterator[Answer]:
    repair = f"orchestrator-core repair {which}, and with --yes if that is what you want"
    found = read_snapshot(registry)
    if found.damage:
        yield failed(f"{registry.path} is damaged: {found.damage}", repair)
    elif found.missing:
        yield failed(f"{registry.path} is gone", repair)
    elif found.unreadable:
        yield failed(found.unreadable, "see what the message names")
    kept = [path for path in registry.quarantined() if ".damaged-" in path.name]
    if kept:
        names = " ".join(shlex.quote(str(path)) for path in kept)
        yield warning(
            f"{shorten_list(kept)} is kept, from when it was damaged",
            f"orchestrator-core repair {which}; if that finds nothing: rm {names}",
        )


def _statistics(path: Path) -> Iterator[Answer]:
    """See whether what is remembered of journals that are gone can be: no journal knows it."""
    try:
        Summary.of(msgspec.json.decode(durable.read(path), type=dict[str, Any]))
    except FileNotFoundError:
        pass  # Nothing has gone yet.
    except msgspec.MsgspecError as error:
        yield warning(
            f"{path} is damaged: {error}",
            "orchestrator-core stats, which keeps it aside and counts anew",
        )
    except RegistryDamaged as error:
        moved = shlex.join(["mv", str(path), f"{path}.damaged-edited"])
        yield warning(f"{path}: {error}", f"mend it; or, to count anew: {moved}")
    kept = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    if kept:
        names = shlex.join(map(str, kept))
        yield warning(
            f"{shorten_list(kept)} is kept, from when it was damaged", f"when looked at: rm {names}"
        )


# --- journals ---------------------------------------------------------------------------------


def journals(subject: Environment) -> Answer:
    """See whether the journals are whole; the newest first, as many as there is time for."""
    layout = subject.layout
    if layout is None or not layout.sagas.is_dir():
        return ok("there are none yet")
    directory = JournalStore(layout.sagas)
    by_age = sorted(_journals(layout.sagas), reverse=True)
    deadline = time.monotonic() + subject.timeout_s
    answers: list[Answer] = []
    for number, (_, path) in enumerate(by_age):
        if time.monotonic() > deadline:
            answers.append(
                unknown(
                    f"only the newest {number} of {len(by_age)} journals were read",
                    "orchestrator-core gc",
                )
            )
            break
        answers += _journal(directory, path)
    kept = [path for path in layout.sagas.iterdir() if ".damaged" in path.name]
    if kept:
        names = " ".join(shlex.quote(str(path)) for path in kept)
        answers.append(
            warning(
                f"{shorten_list(kept)} is kept, from when it was damaged",
                f"when looked at: rm {names}",
            )
        )
    return worst_of(answers, well=f"{len(by_age)} can be read")


def _journals(sagas: Path) -> Iterator[tuple[float, Path]]:
    for pattern in ("*", "closed/*"):
        for path in sagas.glob(f"{pattern}{SUFFIX}"):
            try:
                yield path.lstat().st_mtime, path
            except OSError:
                continue  # Gone by now.


def _journal(directory: JournalStore, path: Path) -> Iterator[Answer]:
    try:
        directory.history(path.name.removesuffix(SUFFIX))
    except SagaError as error:
        if not path.exists():
            return  # Closed meanwhile.
        if path.parent == directory.closed:
            yield warning(f"{path}: {error}", f"its agent is over; when looked at: rm {path}")
        else:
            yield failed(f"{path}: {error}", "orchestrator-core recover: it is kept, and rebuilt")
    except OrchestratorError as error:
        yield failed(str(error), error.hint or "see what the message names")
