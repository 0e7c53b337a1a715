"""Checks of the stored documents: whether they can be read, and the owners of their locks."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.exceptions import OrchestratorError, RegistryDamaged, SagaError, StorageError
from orchestrator_core.model.layout import SCHEMA_VERSION, Root
from orchestrator_core.operations.doctor.check import (
    Check,
    Environment,
    Verdict,
    modification_times,
    shorten_list,
)
from orchestrator_core.operations.metrics.summary import Summary
from orchestrator_core.reconcile.legacy.agent import is_legacy
from orchestrator_core.reconcile.legacy.unlisted import foreign_note
from orchestrator_core.registry import GLOBAL, TASK, Registry
from orchestrator_core.registry.snapshot_cache import read_snapshot
from orchestrator_core.saga import State
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.system import durable
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.locks import (
    LockOwner,
    kernel_owner_pid,
    recorded_owner,
    try_lock,
)
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from orchestrator_core.model.layout import Layout

_JOURNALS = (f"*{SUFFIX}", f"closed/*{SUFFIX}")  #: Below ``sagas``.
_DEPLOYMENTS = ("TASK-*/logs/deploy_*.json", "TASK-*/archive/deploy_*.json")

_LONG_S = 30.0  #: No healthy process holds the lock of a document for so long.
_LOCK_FILES = ("*.json.*lock", "registry/*.json.*lock", "TASK-*/*.json.*lock")


def _quarantined(paths: Iterable[Path], remedy: str = "after inspection") -> Iterator[Check]:
    """Report the copies of a damaged document that are quarantined beside it, if there are any."""
    if names := sorted(map(str, paths)):
        found = f"{shorten_list(names)} is quarantined, from when it was damaged"
        yield Check.warning(found, f"{remedy}: {shlex.join(['rm', *names])}")


# --- root.json --------------------------------------------------------------------------------


def root_file(environment: Environment) -> Check:
    """Check that the root's id and its socket are recorded: they lead to the live agents."""
    layout, record = environment.layout, environment.root_record
    if layout is None:
        return Check.ok("there is no root yet")
    if isinstance(record, Root):
        return Check.ok(f"its id is {record.root_id}")
    if record is None:
        if not any(layout.sagas.glob(f"*{SUFFIX}")):
            return Check.ok("not there yet: it is created when the root is first used")
        found = f"{layout.root_file} is gone, and agents are deployed here"
        return Check.failed(found, _write_back(layout))
    if isinstance(record, RegistryDamaged):
        return Check.failed(str(record), _write_back(layout))
    return Check.from_error(record)


def _write_back(layout: Layout) -> str:
    """Return the command that writes the file again, from journals and deployment records."""
    root_id = _search(layout.sagas, _JOURNALS, rb'"cookie":"oc_([0-9a-f]{8})_')
    socket = _search(layout.root, _DEPLOYMENTS, rb'"tmux_socket": *("[^"]+")')
    if root_id is None or socket is None:
        return "write back its schema_version, root_id and tmux_socket; if no agent runs, remove it"
    record = {"root_id": root_id.decode(), "tmux_socket": msgspec.json.decode(socket)}
    text = msgspec.json.encode({"schema_version": SCHEMA_VERSION, **record}).decode()
    return f"printf '%s\\n' {shlex.quote(text)} > {shlex.quote(str(layout.root_file))}"


def _search(directory: Path, patterns: Iterable[str], text: bytes) -> bytes | None:
    """Return the first group of the regular expression *text*, from the first file with a match."""
    for path in (path for pattern in patterns for path in directory.glob(pattern)):
        with contextlib.suppress(FileNotFoundError, StorageError):
            if found := re.search(text, durable.read(path)):
                return found[1]
    return None


# --- registries -------------------------------------------------------------------------------


def registries(environment: Environment) -> Check:
    """Check that each registry and the statistics can be used."""
    layout = environment.layout
    if layout is None:
        return Check.ok("there is no root yet")
    checks: list[Check] = []
    if note := foreign_note(layout):
        remedy = "use that system for its agents, or another root here: --root DIR"
        checks.append(Check.warning(f"{layout.foreign_database}: {note}", remedy))
    task_ids = layout.task_ids()
    for task_id in task_ids:
        registry = Registry(layout.task_registry(task_id), schema=TASK)
        checks += _check_registry(registry, f"--task {task_id}")
    checks += _removed_registries(layout)
    if layout.global_registry.parent.is_dir():
        registry = Registry(layout.global_registry, schema=GLOBAL)
        checks += _check_registry(registry, "--global")
        checks += _check_statistics(layout.statistics)
    return Check.worst_of(checks, well=f"{len(task_ids)} tasks' and the global one can be used")


def _check_registry(registry: Registry, option: str) -> Iterator[Check]:
    repair = f"orchestrator-core repair {option}"
    found = read_snapshot(registry)
    if found.damage or found.missing:
        damage = f"is damaged: {found.damage}" if found.damage else "is gone"
        remedy = f"{repair}, and with --yes if that is what you want"
        yield Check.failed(f"{registry.path} {damage}", remedy)
    elif found.unreadable:
        yield Check.failed(found.unreadable, "see the file in the message")
    copies = (path for path in registry.quarantined() if ".damaged-" in path.name)
    yield from _quarantined(copies, f"{repair}; if that finds nothing")


def _removed_registries(layout: Layout) -> Iterator[Check]:
    """Report the tasks that have live agents by their journals, and no registry."""
    agents: defaultdict[str, list[str]] = defaultdict(list)
    journals = JournalStore(layout.sagas)
    for saga_id in filter(is_id, journals.ids()):
        with contextlib.suppress(OrchestratorError):  # The check of journals reports it.
            history = journals.open_history(saga_id)
            task_id = history.labels.get("task_id")
            if history.state is State.COMMITTED and is_id(task_id):
                agents[str(task_id)].append(saga_id)
    for task_id in agents.keys() - set(layout.task_ids()):
        path, live = layout.task_registry(task_id), agents[task_id]
        if path.parent.is_dir():
            remedy = f"orchestrator-core repair --task {task_id}, and with --yes"
        else:
            path, remedy = path.parent, shlex.join(["orchestrator-core", "kill", *live])
        yield Check.failed(f"{path} is gone, and agents live on: {shorten_list(live)}", remedy)


def _check_statistics(path: Path) -> Iterator[Check]:
    """Check the counts of removed journals: no other file has them."""
    try:
        Summary.from_document(msgspec.json.decode(durable.read(path), type=dict[str, Any]))
    except FileNotFoundError:
        pass  # No journal has been removed yet.
    except msgspec.MsgspecError as error:
        remedy = "orchestrator-core stats, which quarantines it and restarts the counts"
        yield Check.warning(f"{path} is damaged: {error}", remedy)
    except RegistryDamaged as error:
        move = shlex.join(["mv", str(path), f"{path}.damaged-edited"])
        yield Check.warning(f"{path}: {error}", f"repair it; or, to restart the counts: {move}")
    yield from _quarantined(path.parent.glob(f"{path.name}.damaged-*"))


# --- journals ---------------------------------------------------------------------------------


def journals(environment: Environment) -> Check:
    """Check that journals are complete: the newest first, as many as the time allows."""
    layout = environment.layout
    if layout is None or not layout.sagas.is_dir():
        return Check.ok("there are none yet")
    directory = JournalStore(layout.sagas)
    newest_first = sorted(modification_times(layout.sagas, *_JOURNALS), reverse=True)
    deadline = time.monotonic() + environment.timeout_s
    checks: list[Check] = []
    for number, (_, path) in enumerate(newest_first):
        if time.monotonic() > deadline:
            found = f"only the newest {number} of {len(newest_first)} journals were read"
            checks.append(Check.unknown(found, "orchestrator-core gc"))
            break
        checks += _check_journal(directory, path)
    checks += _removed_journals(layout, directory)
    checks += _quarantined(path for path in layout.sagas.iterdir() if ".damaged" in path.name)
    return Check.worst_of(checks, well=f"{len(newest_first)} can be read")


def _removed_journals(layout: Layout, directory: JournalStore) -> Iterator[Check]:
    """Report the agents that the global registry lists as alive, and that have no journal."""
    registry = read_snapshot(Registry(layout.global_registry, schema=GLOBAL))
    agents: dict[str, dict[str, Any]] = (registry.document or {}).get("agents", {})
    without = [
        agent_id
        for agent_id, entry in agents.items()
        if is_id(agent_id)
        and not is_legacy(entry)
        and not directory.contains(agent_id)
        and not os.path.lexists(directory.closed_file(agent_id))
    ]
    if without:
        found = f"no journal is there of {shorten_list(without)}, which a registry lists as alive"
        yield Check.failed(found, "orchestrator-core sweep, and with --reap")


def _check_journal(directory: JournalStore, path: Path) -> Iterator[Check]:
    try:
        directory.history(path.name.removesuffix(SUFFIX))
    except SagaError as error:
        if not path.exists():
            return  # Closed since the listing.
        if path.parent == directory.closed:
            remedy = f"its agent has ended; after inspection: {shlex.join(['rm', str(path)])}"
            yield Check.warning(f"{path}: {error}", remedy)
        else:
            remedy = "orchestrator-core recover: it quarantines and rebuilds the journal"
            yield Check.failed(f"{path}: {error}", remedy)
    except OrchestratorError as error:
        yield Check.from_error(error)


# --- locks ----------------------------------------------------------------------------------------


def locks(environment: Environment) -> Check:
    """Check the lock files of all documents; ``recover`` reports on journals, their own locks."""
    if environment.layout is None:
        return Check.ok("there is no root yet")
    paths = [path for each in _LOCK_FILES for path in sorted(environment.layout.root.glob(each))]
    checks = []
    for path in paths:
        try:
            checks.append(_check_lock(path))
        except (FileNotFoundError, StorageError):
            continue  # The check of permissions reports that.
    held = [check.found for check in checks if check.verdict is Verdict.OK and check.found]
    state = f"held now: {shorten_list(held)}" if held else "none held now"
    return Check.worst_of(checks, well=f"{len(checks)} lock files, {state}")


def _check_lock(path: Path) -> Check:
    """Return a problem with a lock; its path and owner if it is held; an empty result if not."""
    owner = recorded_owner(path)
    if not _is_locked(path):
        return (
            Check.ok("") if owner is None or owner.name is not None else _interrupted(path, owner)
        )
    if owner is None or owner.name is None:
        pid = kernel_owner_pid(path) or 0
        holder = f"pid {pid}" if pid > 0 else "an unknown process"
    else:
        pid, holder = owner.pid, f"pid {owner.pid} ({owner.name})"
    held_s = _age_s(owner)
    if held_s < _LONG_S:
        return Check.ok(f"{path} by {holder}")
    found = f"{path} is held for {held_s:.0f} s by {holder}"
    if pid <= 0:  # For kill, such a pid means many processes.
        return Check.failed(found, f"find the process: lsof {shlex.quote(str(path))}")
    remedy = f"see what it does: cat /proc/{pid}/wchan; its lock ends with it: kill {pid}"
    return Check.failed(found, remedy)


def _is_locked(path: Path) -> bool:
    """
    Return whether another descriptor holds the exclusive lock on *path*.

    The probe takes a shared lock for an instant, and writes nothing.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return not try_lock(fd, shared=True)
    finally:
        os.close(fd)


def _interrupted(path: Path, owner: LockOwner) -> Check:
    return Check.warning(
        f"{path}: pid {owner.pid} died while it held it, at {owner.since}",
        "nothing by hand: the next owner repairs it; orchestrator-core recover does",
    )


def _age_s(owner: LockOwner | None) -> float:
    """Return how long ago the owner wrote itself into the lock file."""
    since = parse_timestamp(owner.since) if owner is not None else None
    return 0.0 if since is None else time.time() - since
