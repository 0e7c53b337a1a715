"""
The two registry documents: their JSON layout, their schemas, their versions.

A document is a plain dict. Unknown fields stay, in their order, since other tools write
into the same files. The layout is for eyes and for ``grep``: one top-level field a line,
and below ``agents`` and ``tasks`` one entry a line.

A task's registry keeps every agent it ever had. The global registry must not grow
with the past, so it lists live agents only, and the tasks that have some or are about to.

- An agent that ends leaves the global registry and moves, in the same update, into
  ``ended``, a count for each final status.
- A task without live agents moves into ``past_tasks``, unless it has a key or never had one.

Only a listed entry is counted, so no entry is counted twice. Every other counter can be
derived from the document at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from orchestrator_core.exceptions import InvalidInput, RegistryTooNew
from orchestrator_core.model.status import is_active
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Document: TypeAlias = dict[str, Any]


class InvalidDocument(Exception):
    """A document cannot be used; the message says why. It stays inside this package."""


class Schema(NamedTuple):
    """The schema of one kind of document."""

    name: str  #: For messages: "task registry".
    entry_fields: Mapping[str, type[list[Any] | dict[str, Any]]]  #: Fields that hold entries.
    derive: Callable[[Document], None]  #: Set every counter from the entries. Idempotent.
    migrations: tuple[Callable[[Document], None], ...]
    """``migrations[n]`` turns version *n*, in place, into *n* + 1. No version is version 0."""
    count_fields: frozenset[str] = frozenset()  #: Fields of counts that cannot be derived.
    directory: str = ""  #: For messages, what the document's directory is: "task".

    @property
    def version(self) -> int:
        """The version that is written."""
        return len(self.migrations)


# --- writing ------------------------------------------------------------------------------------


def encode(document: Document, schema: Schema) -> bytes:
    """
    Return a document as it is written.

    Raises:
        InvalidInput: It has a value that JSON cannot hold.
    """
    try:
        lines = [
            _member(name, 0)[:-1] + _entries(value)
            if name in schema.entry_fields
            else _member(name, value)
            for name, value in document.items()
        ]
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: not Unicode
        raise InvalidInput(f"{schema.name}: cannot be written as JSON: {error}") from error
    return b"{\n  " + b",\n  ".join(lines) + b"\n}\n"


def _entries(value: list[Any] | dict[str, Any]) -> bytes:
    if not value:
        return _line(value)
    if isinstance(value, list):
        return b"[\n    " + b",\n    ".join(map(_line, value)) + b"\n  ]"
    lines = [_member(name, entry) for name, entry in value.items()]
    return b"{\n    " + b",\n    ".join(lines) + b"\n  }"


def _member(name: str, value: object) -> bytes:
    return _line({name: value})[1:-1]


def _line(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=0)


# --- reading ------------------------------------------------------------------------------------


def decode(data: bytes, schema: Schema) -> tuple[Document, int]:
    """
    Return the document, migrated to the present version, and the version it was written in.

    Raises:
        InvalidDocument: It does not fit the schema.
        RegistryTooNew: Its version is newer than the schema's.
    """
    document = _parse(data)
    if not isinstance(document, dict):
        raise InvalidDocument("it is not a JSON object")
    written = document.get("schema_version", 0)
    if not isinstance(written, int) or isinstance(written, bool) or written < 0:
        raise InvalidDocument("its schema_version is no version")
    if written > schema.version:
        raise RegistryTooNew(
            f"{schema.name} has schema version {written}, "
            f"and {schema.version} is the newest known here"
        )
    if written == 0:
        for name, collection in schema.entry_fields.items():
            document.setdefault(name, collection())
        for name in schema.count_fields:
            document.setdefault(name, {})
    check(document, schema)
    for version in range(written, schema.version):
        schema.migrations[version](document)
        document["schema_version"] = version + 1
    return document, written


def check(document: Document, schema: Schema) -> None:
    """
    Check the types of all fields that hold entries or counts.

    Raises:
        InvalidDocument: One of them has another type.
    """
    for name, collection in schema.entry_fields.items():
        value = document.get(name)
        if not isinstance(value, collection):
            expected = "an array" if collection is list else "an object"
            raise InvalidDocument(f"its {name!r} is not {expected}")
        entries: Iterable[Any] = value.values() if isinstance(value, dict) else value
        if not set(map(type, entries)) <= {dict}:
            raise InvalidDocument(f"its {name!r} holds something that is no object")
    for name in schema.count_fields:
        counts = document.get(name)
        if not isinstance(counts, dict) or not all(isinstance(n, int) for n in counts.values()):
            raise InvalidDocument(f"its {name!r} is not an object of counts")


def _parse(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        why = error
    # Python's json also accepts what it writes beyond JSON: NaN, half a surrogate pair.
    import json  # noqa: PLC0415 - for strange files only

    try:
        text = json.dumps(json.loads(data), ensure_ascii=False)
        return json.loads(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise InvalidDocument(str(why) or type(why).__name__) from why


# --- the two schemas: what they count, and where their past goes ----------------------------------


def _derive_task(document: Document) -> None:
    agents = document["agents"]
    active = _count_active(agents)
    document["total_spawned"] = len(agents)
    document["active_count"] = active
    document["completed_count"] = len(agents) - active  # Every final status counts here.


def _derive_global(document: Document) -> None:
    _move_past_tasks_to_count(document)
    tasks, agents = document["tasks"], document["agents"]
    active = {task_id for task_id, task in tasks.items() if is_active(task.get("status"))}
    active |= _task_ids(agent for agent in agents.values() if is_active(agent.get("status")))
    document["total_tasks"] = len(tasks) + _int_or_0(document.get("past_tasks"))
    document["active_tasks"] = len(active)
    document["total_agents_spawned"] = len(agents) + sum(document["ended"].values())
    document["active_agents"] = _count_active(agents.values())


def _count_active(entries: Iterable[dict[str, Any]]) -> int:
    return sum(is_active(entry.get("status")) for entry in entries)


def _task_ids(agents: Iterable[dict[str, Any]]) -> set[str]:
    return {str(agent.get("task_id")) for agent in agents}


def _move_past_tasks_to_count(document: Document) -> None:
    """
    Count the tasks whose agents are all gone in ``past_tasks``, and remove their entries.

    Their directories hold everything else. A task that had no agent yet stays, since its
    first agent is about to come. A task with a key stays, so that the key finds it.
    """
    tasks, busy = document["tasks"], _task_ids(document["agents"].values())
    for task_id in busy & tasks.keys():
        if not _is_legacy(tasks[task_id]):
            tasks[task_id]["had_agents"] = True
    past = [
        task_id
        for task_id, task in tasks.items()
        if task.get("had_agents") and task_id not in busy and task.get("key") is None
    ]
    for task_id in past:
        del tasks[task_id]
    if past:
        document["past_tasks"] = _int_or_0(document.get("past_tasks")) + len(past)


def _is_legacy(task: dict[str, Any]) -> bool:
    """Return whether the old system listed a task. Such an entry stays until an agent ends."""
    return "created_at" in task and "key" not in task


def move_ended_to_counts(document: Document) -> None:
    """
    Count the ended agents that the old system left in the global registry, and remove them.

    Call it when an agent ends: until then, nothing that the old system wrote changes.
    Their records are also in their tasks' registries.
    """
    agents, tasks = document.get("agents", {}), document.get("tasks", {})
    for agent_id, agent in list(agents.items()):
        if not is_active(agent.get("status")):
            del agents[agent_id]
            count_end(document, agent["status"])
            mark_had_agents(tasks, agent)


def count_end(document: Document, status: str) -> None:
    """Count one more agent that ended with *status*."""
    ended = document.setdefault("ended", {})
    ended[status] = ended.get(status, 0) + 1


def mark_had_agents(tasks: dict[str, Any], agent: dict[str, Any]) -> None:
    """Mark an agent's task as one that had agents: without any left, it is past."""
    task = tasks.get(str(agent.get("task_id")))
    if task is not None:
        task["had_agents"] = True


def _int_or_0(value: object) -> int:
    return value if isinstance(value, int) else 0


def _keep_as_is(_document: Document) -> None:
    """Version 0 is the old system's: the same names, without a version."""


TASK = Schema(
    name="task registry",
    directory="task",
    entry_fields={"agents": list},
    derive=_derive_task,
    migrations=(_keep_as_is,),
)

GLOBAL = Schema(
    name="global registry",
    entry_fields={"tasks": dict, "agents": dict},
    count_fields=frozenset({"ended"}),
    derive=_derive_global,
    # Version 0 lists ended agents, too: see move_ended_to_counts.
    migrations=(_keep_as_is,),
)


def new_global() -> Document:
    """Return the global document of an empty root."""
    return {
        "schema_version": GLOBAL.version,
        "created_at": timestamp(),
        "total_tasks": 0,
        "active_tasks": 0,
        "total_agents_spawned": 0,
        "active_agents": 0,
        "past_tasks": 0,
        "ended": {},
        "tasks": {},
        "agents": {},
    }


def task_entry(task: Document) -> dict[str, Any]:
    """Return a task's entry in the global document, from the task's own document."""
    entry = {
        "description": task.get("task_description", ""),
        "created_at": task.get("created_at", ""),
        "status": task.get("status", "INITIALIZED"),
        "key": task.get("key"),
    }
    return {**entry, "had_agents": True} if task["agents"] else entry


def agent_entry(task_id: str, agent: dict[str, Any]) -> dict[str, Any]:
    """Return a live agent's entry in the global document, from its record."""
    known = ("type", "parent", "started_at", "tmux_session", "key", "deadline_at")
    return {"task_id": task_id, **{name: agent[name] for name in known if name in agent}}
