"""
Draw the tables of the documentation that are data in the code.

    python docs/draw.py          write them into the pages
    python docs/draw.py --check  exit with 1 if a page is out of date

Each stands between ``<!-- drawn: NAME -->`` and ``<!-- end -->``.
"""

# ruff: noqa: SLF001 - argparse has no other door to its arguments

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import tomllib
from pathlib import Path

import attrs
import msgspec

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import orchestrator_core  # noqa: E402 - this checkout's, from wherever
from orchestrator_core import Orchestrator, Sweeper, cli, exceptions  # noqa: E402 - as above
from orchestrator_core import saga as sagas  # noqa: E402 - as above
from orchestrator_core.cli.arguments import parser  # noqa: E402 - as above
from orchestrator_core.deployment.steps import STEPS  # noqa: E402 - as above
from orchestrator_core.model import settings  # noqa: E402 - as above
from orchestrator_core.model.layout import Layout  # noqa: E402 - as above
from orchestrator_core.model.status import TRANSITIONS, Status  # noqa: E402 - as above
from orchestrator_core.operations import doctor  # noqa: E402 - as above
from orchestrator_core.operations.metrics import exposition  # noqa: E402 - as above
from orchestrator_core.reconcile.sweep.findings import FINDINGS  # noqa: E402 - as above
from orchestrator_core.saga import states  # noqa: E402 - as above
from orchestrator_core.saga.engine import step_name  # noqa: E402 - as above


def saga() -> str:
    """Return what may follow each state of a saga."""
    notes = _attribute_notes(states)
    rows = [
        (
            f"`{state.name}`",
            notes[state.name],
            ", ".join(f"`{then.name}`" for then in states.State if then in after) or "nothing",
        )
        for state, after in states.TRANSITIONS.items()
    ]
    return table(("state", "meaning", "may become"), rows)


def status() -> str:
    """Return what may follow each status of an agent."""
    rows = [
        (
            f"`{status.value}`",
            "terminal" if status.is_terminal else "active",
            "anything" if TRANSITIONS[status] else "nothing",
        )
        for status in Status
    ]
    return table(("status", "kind", "may become"), rows)


def steps() -> str:
    """Return a deployment's steps, as each describes itself."""
    rows = [
        (
            str(number),
            f"`{step_name(step)}`",
            _paragraph(step),
            _paragraph(step.undo),
        )
        for number, step in enumerate(STEPS, 1)
    ]
    return table(("", "step", "do", "undo"), rows)


def errors() -> str:
    """Return every error, with its code and what to do."""
    found = [
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, exceptions.OrchestratorError)
    ]
    rows = [
        (
            f"`{kind.code}`",
            f"`{kind.__name__}`",
            _paragraph(kind),
            kind.default_hint or _WHAT_TO_DO[kind.code],
        )
        for kind in found
    ]
    return table(("code", "class", "means", "do"), rows)


#: For those whose hint depends on the case.
_WHAT_TO_DO = {
    "error": "catch a narrower one, if you have an answer for it",
    "invalid-input": "mend the argument, and call again",
    "saga": "the saga is unchanged; the message names the refused operation",
    "saga-not-found": "it is closed, or never existed: see its report",
    "undo-failed": "mend the cause, then: orchestrator-core recover AGENT",
    "could-not-ask": "see that what was asked answers, then try again",
    "storage": "the hint names the remedy: space, a permission, another root",
    "registry": "the message names the file",
    "registry-damaged": "repair the quarantined file, and move it back: see the hint",
    "terminal": "the message holds tmux's own",
    "session-exists": "that session was left alone; end it, or use another id",
    "survivors": "see what the named processes wait for; recovery tries again",
    "deployment": "read its `output` and `hint`; if `leaked` is not empty, recover",
    "wait-timeout": "wait again, or terminate",
}


def methods() -> str:
    """Return what an Orchestrator can be asked, in the order of its source."""
    return _methods_of(Orchestrator)


def sweeper() -> str:
    """Return what a Sweeper can be asked."""
    return _methods_of(Sweeper)


def _methods_of(kind: type) -> str:
    rows = [
        (f"`{name}{_signature(method)}`", _paragraph(method), _raised(method))
        for owner in kind.__mro__[:-1]
        for name, method in vars(owner).items()
        if inspect.isfunction(method) and not name.startswith("_")
    ]
    opening = kind.__init__
    first = (f"`{kind.__name__}{_signature(opening)}`", _paragraph(opening), _raised(opening))
    return table(("method", "does", "raises"), [first, *rows])


def values() -> str:
    """Return the fields of every value that goes in or comes out."""
    return "\n\n".join(
        f"### `{name}`\n\n{_whole(value)}\n\n{_fields(value)}"
        for name, value in _public()
        if attrs.has(value) or issubclass(value, tuple)
    )


def saga_names() -> str:
    """Return what the saga package offers."""
    rows = [
        (f"`{name}`", _paragraph(getattr(sagas, name)))
        for name in sagas.__all__
        if name != "TRANSITIONS"
    ]
    rows.append(("`TRANSITIONS`", "What may follow each state of a saga."))
    return table(("name", "is"), rows)


def files() -> str:
    """Return where everything of a root is."""
    layout = Layout(Path("ROOT"))
    rows = []
    for name, place in vars(Layout).items():
        if name.startswith("_") or name in ("root", "task_ids"):
            continue
        is_property = isinstance(place, property)
        wanted = [] if is_property else list(inspect.signature(place).parameters)[1:]
        given = {"task_id": "TASK-x", "agent_id": "agent-x"}
        path = getattr(layout, name) if is_property else place(layout, *map(given.get, wanted))
        shown = (
            str(path).removeprefix("ROOT/").replace("TASK-x", "TASK-…").replace("agent-x", "AGENT")
        )
        what = _paragraph(place.fget if is_property else place)
        rows.append((f"`{shown}`", re.sub(r"^Return (.)", lambda found: found[1].upper(), what)))
    return table(("path", "is"), rows)


def events() -> str:
    """Return every event that is logged, by its name."""
    found = []
    for path in HERE.parent.glob("orchestrator_core/**/*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                found += _emitted(function)
    return table(("event", "level", "values", "means"), sorted(found))


def _emitted(function: ast.FunctionDef) -> list[tuple[str, ...]]:
    calls = [call for call in ast.walk(function) if isinstance(call, ast.Call)]
    about = (ast.get_docstring(function) or "").split("\n\n")[0]
    return [
        (
            f"`{call.args[1].value}`",
            call.args[0].attr.lower(),
            ", ".join(f"`{name}`" for name in _values(call)),
            about,
        )
        for call in calls
        if ast.unparse(call.func).split(".")[-1] == "emit"
        and isinstance(call.args[1], ast.Constant)
    ]


def _values(call: ast.Call) -> list[str]:
    return [word.arg for word in call.keywords if word.arg not in (None, "exc_info")]


def commands() -> str:
    """Return the commands and options of the command line."""
    top = parser()
    [sub] = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help for choice in sub._choices_actions}
    parts = []
    for name, command in sub.choices.items():
        if name in helps:
            options = _options(command.ensure_arguments())
            parts.append(f"### `{name}`\n\n{_sentence(helps[name])}.\n\n{options}")
    return "\n\n".join([_options(top), *parts])


def _options(command: argparse.ArgumentParser) -> str:
    rows = [
        (f"`{_spelled(action)}`", _sentence(action.help or "") or "—")
        for action in command._actions
        if action.dest not in ("help", "command", *_shared(command))
    ]
    return table(("argument", "is"), rows) if rows else "The command has only the shared arguments."


def _shared(command: argparse.ArgumentParser) -> tuple[str, ...]:
    return ("root", "json", "verbose") if " " in command.prog else ()


def _spelled(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {_value(action)}"
    if action.option_strings:
        return action.option_strings[-1] + value
    name = _value(action)
    return {"?": f"[{name}]", "+": f"{name}…"}.get(action.nargs, name)


def findings() -> str:
    """Return every kind of finding: what it means, what reaping does, what a person does."""
    rows = [
        (
            f"`{kind.value}`",
            about.meaning,
            _sentence(about.reap_action) or "It is never reaped",
            about.remedy,
        )
        for kind, about in FINDINGS.items()
    ]
    return table(("kind", "means", "reaping", "what to do"), rows)


def metrics() -> str:
    """Return every metric for Prometheus."""
    rows = [
        (f"`{exposition.PREFIX}{name}`", kind, about)
        for name, (kind, about) in exposition.METRICS.items()
    ]
    return table(("metric", "type", "means"), rows)


def checks() -> str:
    """Return what the doctor looks at."""
    rows = [
        (f"`{name}`", re.sub(r"^(See|Tell) (.)", _capital, _paragraph(look)), _REMEDIES[name])
        for name, look in doctor.CHECKS.items()
    ]
    return table(("check", "looks at", "usual remedy"), rows)


def _capital(found: re.Match[str]) -> str:
    return found[2].upper()


#: The usual remedy; the doctor prints the one for the case at hand.
_REMEDIES = {
    "python": "use Python 3.11 or newer",
    "libraries": "the `pip install` that it names",
    "locale": "none is needed",
    "environment": "unset what it names",
    "agents": "install those that you use",
    "tmux": "install tmux 3.2 or newer",
    "tmux socket": "`chmod`, or a root with a shorter path; a stale one needs nothing",
    "tmux server": "stopped: `kill -CONT PID`; hung: `kill -9 PID`, `orchestrator-core recover`",
    "tmux server's files": "the `prlimit` that it names",
    "root": "`--root DIR`, or set `ORCHESTRATOR_ROOT`",
    "permissions": "`chmod go-rwx`, `chown`; remove symlinks",
    "settings": "mend the line that it names: [configuration](configuration.md)",
    "removed roots": "`orchestrator-core sweep --reap`, in any root of this user",
    "file system": "use a root on a local disk",
    "file operations": "use a root on a local disk",
    "space": "`orchestrator-core gc`: [retention](retention.md)",
    "clock": "`timedatectl set-ntp true`",
    "pidfd": "Linux 5.3 or newer; in a container, a seccomp profile that allows it",
    "/proc": "`mount -t proc proc /proc`, without `hidepid=ptraceable`",
    "subreaper": "in a container, a seccomp profile that allows `prctl`",
    "containment": "unset `ORCHESTRATOR_CONTAINMENT`",
    "open files": "`ulimit -n 4096`",
    "file events": "`sysctl fs.inotify.max_user_instances=1024`, as root",
    "processes": "end some, or raise the limit that it names",
    "locks": "held for long: end the holder that it names. Its holder died: nothing",
    "root.json": "the `printf` that it names writes it again",
    "registries": "`orchestrator-core repair`: see below",
    "journals": "`orchestrator-core recover` keeps the damaged one, and rebuilds it",
}


def configuration() -> str:
    """Return every key of ``orchestrator.toml``."""
    parts = []
    for section in attrs.fields(settings.Settings):
        kind = section.default.factory
        notes = _notes(kind)
        rows = [
            (f"`{key.name}`", _plain_type(key), _toml(key.default), notes[key.name])
            for key in attrs.fields(kind)
        ]
        parts.append(
            f"### `[{section.name}]`\n\n{_sentence(_paragraph(kind).partition(': ')[2])}\n\n"
            + table(("key", "is", "default", ""), rows)
        )
    return "\n\n".join(parts)


_TYPES = {
    "float": "number",
    "int": "whole number",
    "str": "string",
    "bool": "true or false",
    "tuple[str, ...]": "list of strings",
}


def _plain_type(key: attrs.Attribute) -> str:
    return _TYPES[str(key.type).removesuffix(" | None")]


def _toml(default: object) -> str:
    if default is None:
        return "none"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{msgspec.json.encode(default).decode()}`"


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "\\|".join(action.choices)
    return str(action.metavar or action.dest).upper()


def codes() -> str:
    """Return the command line's exit codes."""
    rows = re.findall(r"^(\d)    (.+)$", cli.__doc__, re.MULTILINE)
    return table(("code", "means"), [(f"`{code}`", _sentence(means)) for code, means in rows])


def rooms() -> str:
    """Return the rooms, the highest first, as the import contract has them."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    [layers] = [each["layers"] for each in contracts if each["id"] == "layers"]
    rows = [
        (f"`{module.removeprefix('orchestrator_core.')}`", _summary(module))
        for layer in layers
        for module in layer.split(" | ")
    ]
    return table(("room", "what lives here"), rows)


def contracts() -> str:
    """Return the import contracts, each in its own words."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    return "\n".join(f"- {each['name']}." for each in project["tool"]["importlinter"]["contracts"])


def _summary(module: str) -> str:
    """Return the first line of a module's docstring, without importing the module."""
    path = HERE.parent / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    line = (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n")[0]
    return line.replace("``", "`")


DRAWN = {
    drawing.__name__: drawing
    for drawing in (
        saga,
        status,
        steps,
        errors,
        methods,
        values,
        saga_names,
        files,
        events,
        commands,
        codes,
        sweeper,
        findings,
        metrics,
        checks,
        configuration,
        rooms,
        contracts,
    )
}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def drawn(text: str) -> str:
    """Return a page's text with its tables as the code has them."""
    return re.sub(
        r"(<!-- drawn: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{DRAWN[found[2]]()}\n\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


def _public():
    """Return the public names that are no errors, with what they are."""
    for name in orchestrator_core.__all__:
        value = getattr(orchestrator_core, name)
        if isinstance(value, type) and not issubclass(value, Exception):
            yield name, value


def _fields(value: type) -> str:
    notes = _notes(value)
    rows = [
        (f"`{name}`", f"`{_type(kind)}`", _default(default), notes.get(name, ""))
        for name, kind, default in _declared(value)
    ]
    rows += [
        (f"`{name}`", f"`{_returned(value.fget)}`", "derived", _paragraph(value.fget))
        for name, value in vars(value).items()
        if isinstance(value, property) and not name.startswith("_")
    ]
    return table(("field", "type", "default", ""), rows)


def _declared(value: type):
    """Yield the name, type and default of each field, of an attrs class or a named tuple."""
    if attrs.has(value):
        yield from ((field.name, field.type, field.default) for field in attrs.fields(value))
        return
    for name, kind in value.__annotations__.items():
        default = value._field_defaults.get(name, attrs.NOTHING)
        yield name, kind.__forward_arg__, default


def _type(kind: object) -> str:
    return str(kind).replace("|", "\\|")


def _returned(documented) -> str:
    return str(inspect.signature(documented).return_annotation).replace("|", "\\|")


def _default(default: object) -> str:
    if default is attrs.NOTHING:
        return ""
    if isinstance(default, attrs.Factory):
        if default.takes_self:
            return "derived"
        return f"`{default.factory()!r}`"
    return f"`{default!r}`"


def _notes(value: type) -> dict[str, str]:
    """Return the ``#:`` notes beside a class's fields."""
    found = re.findall(r"^    (\w+): .*?#: (.+)$", inspect.getsource(value), re.MULTILINE)
    return {name: note.replace("``", "`") for name, note in found}


def _signature(documented) -> str:
    shown = str(inspect.signature(documented)).replace("(self, ", "(").replace("(self)", "()")
    shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", shown.removesuffix(" -> 'None'"))
    return shown.replace("|", "\\|")


def _raised(documented) -> str:
    """Return the errors that a docstring promises."""
    _, _, raised = (inspect.getdoc(documented) or "").partition("Raises:\n")
    names = re.findall(r"^    ([A-Z]\w+(?:, [A-Z]\w+)*):", raised, re.MULTILINE)
    return ", ".join(f"`{name}`" for some in names for name in some.split(", "))


def _attribute_notes(module) -> dict[str, str]:
    """Return the ``#:`` notes of a module's enumerations."""
    source = Path(module.__file__).read_text()
    return dict(re.findall(r"^    ([A-Z]+) = .*?#: (.+)$", source, re.MULTILINE))


def _paragraph(documented) -> str:
    """Return the first paragraph of a docstring, in one line, for Markdown."""
    return _whole(documented).split("\n\n")[0].replace("|", "\\|")


def _whole(documented) -> str:
    """Return a docstring as Markdown, each paragraph in one line, without what it raises."""
    text = (inspect.getdoc(documented) or "").partition("\n\nRaises:")[0]
    lines = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", lines).replace("``", "`")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text else ""


def pages() -> list[Path]:
    """Return the pages of the documentation."""
    return [HERE.parent / "CONTRIBUTING.md", *sorted(HERE.rglob("*.md"))]


def main() -> int:
    stale = []
    for page in pages():
        text = page.read_text()
        if drawn(text) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(drawn(text))
    if stale:
        print(("stale: " if "--check" in sys.argv else "drawn: ") + ", ".join(stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
