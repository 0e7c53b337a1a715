"""
Draw the tables of the documentation that are data in the code.

    python docs/draw.py          put them into the pages
    python docs/draw.py --check  tell whether they are in them; a test does

Each stands between ``<!-- drawn: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from orchestrator_core import agents, exceptions  # noqa: E402 - this checkout's, from wherever
from orchestrator_core.saga import states  # noqa: E402 - as above
from orchestrator_core.saga.engine import step_name  # noqa: E402 - as above
from orchestrator_core.steps import undoing_steps  # noqa: E402 - as above


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
            "anything" if agents.TRANSITIONS[status] else "nothing",
        )
        for status in agents.Status
    ]
    return table(("status", "kind", "may become"), rows)


def steps() -> str:
    """Return a deployment's steps, as each describes itself."""
    rows = [
        (
            str(number),
            f"`{step_name(step)}`",
            _first_line(type(step)),
            _first_line(type(step).undo),
        )
        for number, step in enumerate(undoing_steps(None), 1)
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
            _first_line(kind),
            _sentence(kind.default_hint) or "see the error's `hint`",
        )
        for kind in found
    ]
    return table(("code", "class", "means", "do"), rows)


DRAWN = {drawing.__name__: drawing for drawing in (saga, status, steps, errors)}


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


def _attribute_notes(module) -> dict[str, str]:
    """Return the ``#:`` notes of a module's enumerations."""
    source = Path(module.__file__).read_text()
    return dict(re.findall(r"^    ([A-Z]+) = .*?#: (.+)$", source, re.MULTILINE))


def _first_line(documented) -> str:
    return next(line.strip() for line in documented.__doc__.splitlines() if line.strip())


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text else ""


def main() -> int:
    stale = []
    for page in sorted(HERE.glob("*.md")):
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
