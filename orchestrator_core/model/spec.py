"""
The specification of an agent to deploy, and its deadline as the agent's journal has it.

A spec is checked as far as possible before anything is created. A command that does not
exist, a missing directory or a NUL in an argument never gets as far as a session.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model import bounds, ids
from orchestrator_core.model.command_path import with_own_directory
from orchestrator_core.model.environment import RESERVED_ENV
from orchestrator_core.model.preset_programs import PROGRAMS
from orchestrator_core.system import paths
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.inheritance import inherited
from orchestrator_core.system.names import check_id
from orchestrator_core.system.seconds import check_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.presets.claude import claude as _claude
    from orchestrator_core.presets.codex import codex as _codex
    from orchestrator_core.presets.gemini import gemini as _gemini
    from orchestrator_core.presets.shell import shell as _shell

#: Each has a constructor of specs, below, and a parser of its output.
PRESETS = ("claude", "codex", "gemini", "shell")

#: Replaced in every agent's command; extra steps may provide more.
PLACEHOLDERS = ("prompt_file", "prompt", "agent_id", "task_id", "workspace")
#: MAX_ARG_STRLEN of Linux, in bytes, the NUL at the end included.
_LONGEST_ARGUMENT = 32 * os.sysconf("SC_PAGE_SIZE")
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")
_ANY_PLACEHOLDER = re.compile(r"\{[a-z][a-z0-9_]*\}")


def _path_of(path: str | os.PathLike[str] | None) -> str | None:
    try:
        return None if path is None else os.fsdecode(path)
    except TypeError:
        raise InvalidInput(f"cwd must be a path, not {type(path).__name__}") from None


def _argv_of(command: Iterable[str]) -> tuple[str, ...]:
    if isinstance(command, str):
        raise InvalidInput(
            "the command is one string, and no shell splits it",
            hint='give an argv: ["claude", "-p", "…"]',
        )
    if not isinstance(command, Iterable):
        raise InvalidInput(f"the command must be an argv, not {type(command).__name__}")
    return tuple(command)


def _to_linger_s(value: float | None) -> float | None:
    return None if value is None else check_seconds("linger_s", value)


def _time_limit(name: str) -> Any:  # noqa: ANN401 - a field with a converter
    """Return the field of a time limit in seconds; infinity is None: no limit."""

    def convert(value: float | None) -> float | None:
        if value is None:
            return None
        seconds = check_seconds(name, value, zero=False)
        return None if seconds == math.inf else seconds

    return attrs.field(default=None, converter=convert)


class _Preset:
    """A constructor of specs that is imported at its first use."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, _: object, owner: type) -> object:
        home = importlib.import_module(f"orchestrator_core.presets.{self._name}")
        return getattr(home, self._name)


@attrs.frozen(kw_only=True)
class AgentSpec:
    """
    An agent to deploy.

    *command* is an argv, never a shell string. In its arguments, exactly
    ``{prompt_file}``, ``{prompt}``, ``{agent_id}``, ``{task_id}`` and ``{workspace}``
    (the task's directory) are replaced; any other brace stays as it is. The agent
    gets its prompt on standard input, unless *stdin* is False. Every user of the
    machine can read an argument, with ``ps``.

    The agent's environment is that of the deploying process with *env* on top, without the
    variables that are true for that process only, such as CLAUDECODE, NOTIFY_SOCKET or GIT_DIR:
    see :mod:`orchestrator_core.system.inheritance`. Its PATH ends with the directory of the
    command ``orchestrator-core``. If *cwd* is None, it runs in the deploying
    process's directory. Extra steps may provide more of all
    three: see :mod:`orchestrator_core.resources.provision`.

    An agent is ended after *deadline_s* seconds; None and infinity mean never. After it has
    reported its own end, an agent may go on for *linger_s* seconds: its tool writes the
    answer last. None means the setting of the orchestrator or its root; without one, 60 s
    with a *preset* and 1 s without. A sweep reports an agent that has neither written nor
    reported for *silent_after_s* seconds. The same *key* never deploys twice: while the
    key's agent runs, a deployment returns that agent.

    The agent ends with its *parent*, an agent of the same task. None means the agent that
    the deploying process runs in, if that is of the same task. Otherwise, and with
    "orchestrator", the agent has no parent. An agent is at least one deeper than the agent
    that deploys it, whatever its parent is.

    ``AgentSpec.claude``, ``.codex``, ``.gemini`` and ``.shell`` make specs for those tools,
    with the right command; see :mod:`orchestrator_core.presets`. *preset* names the tool
    whose output format the command writes, so that its result can be read.

    Raises:
        InvalidInput: No agent could run with one of the values.
    """

    type: str
    prompt: str = attrs.field(repr=False)
    command: tuple[str, ...] = attrs.field(converter=_argv_of)
    cwd: str | None = attrs.field(default=None, converter=_path_of)
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    parent: str | None = None
    deadline_s: float | None = _time_limit("deadline_s")
    linger_s: float | None = attrs.field(default=None, converter=_to_linger_s)
    silent_after_s: float | None = _time_limit("silent_after_s")
    key: str | None = None
    stdin: bool = True
    preset: str | None = None

    if TYPE_CHECKING:
        claude = staticmethod(_claude)
        codex = staticmethod(_codex)
        gemini = staticmethod(_gemini)
        shell = staticmethod(_shell)
    else:
        claude, codex, gemini, shell = _Preset(), _Preset(), _Preset(), _Preset()

    def __attrs_post_init__(self) -> None:
        ids.check_type(self.type)
        if self.parent is not None:
            check_id("parent", self.parent)
        if self.key is not None:
            check_id("key", self.key)
        if self.preset is not None and self.preset not in PRESETS:
            raise InvalidInput(
                f"{self.preset!r:.80} is no preset", hint=f"use one of: {', '.join(PRESETS)}"
            )
        _check_prompt(self.prompt)
        _check_argv(self.command, self.prompt)
        _check_env(self.env)

    def argv(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the command with its placeholders replaced, each once."""
        if "{" not in "".join(self.command):
            return self.command
        known = re.compile(r"\{(" + "|".join(map(re.escape, values)) + r")\}")
        return tuple(
            known.sub(lambda match: values[match.group(1)], argument) for argument in self.command
        )

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the agent's whole environment; *own* are the variables that identify it."""
        kept = inherited(os.environ)
        for name in RESERVED_ENV:
            kept.pop(name, None)
        env = {**kept, **self.env, **own}
        return env | {"PATH": with_own_directory(env.get("PATH", ""))}

    def directory(self) -> Path:
        """
        Return the absolute path of the directory that the agent will run in.

        Raises:
            InvalidInput: It is not a directory, or cannot be entered or looked at.
        """
        path = paths.absolute("the agent's directory", self.cwd or ".")
        try:
            is_directory = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_directory = False
        except (OSError, ValueError) as error:  # ValueError: a NUL in it.
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(
                f"the agent's directory {str(path)!r:.200} cannot be looked at: {reason}"
            ) from error
        if not is_directory:
            raise InvalidInput(f"the agent's directory {path} is not a directory")
        if not os.access(path, os.X_OK):
            raise InvalidInput(f"the agent's directory {path} cannot be entered")
        return path

    def program(self, *, provided: bool = False) -> str:
        """
        Return the file that the command runs, as the agent's own PATH finds it.

        With *provided*, steps may provide the agent's directory or its program. What
        they may provide is not checked yet.

        Raises:
            InvalidInput: The file does not exist, or is not executable.
        """
        name = self.command[0]
        if _PLACEHOLDER.search(name):
            return name  # Known once the agent has an id.
        if provided and (_ANY_PLACEHOLDER.search(name) or (os.sep in name and self.cwd is None)):
            return name  # Known once the steps are done.
        path = self.env.get("PATH", os.environ.get("PATH", os.defpath))
        if os.sep in name:
            found = shutil.which(str(self.directory() / name))
        else:
            found = shutil.which(name, path=self._absolute_path_list(path))
        if found is None:
            raise InvalidInput(
                f"the agent's command {name!r} is not there, or not executable",
                hint=f"looked for it in {self.directory() if os.sep in name else path}"
                + self._install_hint(),
            )
        return found

    def _absolute_path_list(self, path: str) -> str:
        """Return a PATH whose relative directories are anchored at the agent's directory."""
        directories = path.split(os.pathsep)
        if all(each.startswith(os.sep) for each in directories):
            return path
        here = self.directory()
        return os.pathsep.join([str(here / each) for each in directories])

    def _install_hint(self) -> str:
        """Return how to install the preset's program, if the command is that program."""
        program = PROGRAMS.get(self.preset or "")
        is_it = program is not None and program.name == self.command[0]
        return f"; if it is not installed: {program.install}" if program and is_it else ""


def _check_prompt(prompt: str) -> None:
    if not isinstance(prompt, str):
        raise InvalidInput(f"the prompt must be text, not {type(prompt).__name__}")
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", hint="write what the agent is to do")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the prompt is not Unicode text: {error}") from error


def _check_argv(command: tuple[object, ...], prompt: str) -> None:
    if not command or not command[0]:
        raise InvalidInput("the command is empty", hint='give an argv: ["claude", "-p", "…"]')
    for argument in command:
        if not isinstance(argument, str) or "\0" in argument:
            raise InvalidInput(f"an argument must be text without NUL, not {argument!r:.80}")
        if "{prompt}" in argument and not fits_argument(argument.replace("{prompt}", prompt)):
            raise InvalidInput(
                f"the prompt cannot be an argument: it has a NUL, or is longer than "
                f"{_LONGEST_ARGUMENT - 1} bytes",
                hint="let the agent read standard input, or {prompt_file}",
            )


def fits_argument(text: str) -> bool:
    """Return whether the kernel passes *text* to a program as one argument."""
    return "\0" not in text and len(os.fsencode(text)) < _LONGEST_ARGUMENT


def _check_env(env: Mapping[str, str]) -> None:
    if not isinstance(env, Mapping):
        raise InvalidInput(f"env must be a mapping, not {type(env).__name__}")
    for name, value in env.items():
        for part in (name, value):
            bounds.check_text(f"the environment variable {name!r:.80}", part)
        # The value may be a secret: an error never shows it.
        if not name or {"=", "\0"} & set(name) or "\0" in value:
            raise InvalidInput(f"the environment variable {name!r:.80} cannot be passed on")
        if name in RESERVED_ENV:
            raise InvalidInput(f"{name} identifies an agent; a spec cannot set it")


# --- the deadline, by the monotonic clock, which cannot be set ------------------------------------
#
# An agent's supervisor enforces its deadline; a recovery or a sweep does so if the supervisor
# has not. All use the machine's monotonic clock, so a change of the time of day neither
# ends an agent early nor extends its life. The clock is valid for one boot, which no
# agent outlives. The time of day of a deadline is for people, and for their records.


def deadline_labels(deadline_s: float | None) -> dict[str, Any]:
    """Return the journal labels for the deadline of an agent that starts now."""
    if deadline_s is None:
        return {"deadline_at": None}
    return {
        "deadline_at": time.time() + deadline_s,
        "deadline_monotonic": time.monotonic() + deadline_s,
        "boot_id": boot_id(),
    }


def monotonic_deadline(labels: Mapping[str, Any]) -> float | None:
    """
    Return an agent's deadline by this boot's monotonic clock; None if it has none.

    Labels of another boot, or without a boot, fall back to the time of day.
    """
    deadline_at = labels.get("deadline_at")
    if deadline_at is None:
        return None
    if labels.get("boot_id") == boot_id():
        return float(labels["deadline_monotonic"])
    return time.monotonic() + float(deadline_at) - time.time()


def is_past_deadline(labels: Mapping[str, Any]) -> bool:
    """Return whether an agent's deadline has passed."""
    deadline = monotonic_deadline(labels)
    return deadline is not None and time.monotonic() >= deadline
