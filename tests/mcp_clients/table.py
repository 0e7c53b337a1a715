"""
Run real MCP clients on the server, and write the table of the documentation.

    python tests/mcp_clients/table.py DIRECTORY

DIRECTORY holds what ``script/mcp-clients`` has installed: a virtual environment for each Python
client, and a directory of npm's for each other one. Exits with 1 if a case is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parents[1]
PAGE = TOP / "docs" / "how-to" / "mcp.md"
BEGIN, END = "<!-- measured: clients -->", "<!-- end -->"
TIMEOUT_S = 180

#: By directory: the name of the client, and its kind.
CLIENTS = {
    "mcp1": ("Python, mcp", "mcp"),
    "mcp2": ("Python, mcp", "mcp"),
    "fastmcp2": ("Python, fastmcp", "fastmcp"),
    "fastmcp3": ("Python, fastmcp", "fastmcp"),
    "fastmcp4": ("Python, fastmcp", "fastmcp"),
    "ts1": ("TypeScript, @modelcontextprotocol/sdk", "typescript"),
    "ts2": ("TypeScript, @modelcontextprotocol/client", "typescript"),
    "inspector": ("Inspector, --cli", "inspector"),
}

ME = {"task_id": "$task", "agent_id": "$agent"}
#: By case: the calls, and what must be true of their answers.
CASES = {
    "values": (
        [("create_real_task", {"description": "See"})],
        lambda made: not made["error"] and made["values"]["success"] is True,
    ),
    "refusal": (
        [("get_real_task_status", {"task_id": "TASK-none"})],
        lambda refused: refused["error"] and "there is no task 'TASK-none'" in refused["text"],
    ),
    "missing argument": (
        [("create_real_task", {})],
        lambda refused: refused["error"] and "description is missing" in refused["text"],
    ),
    "unknown argument": (
        [("create_real_task", {"description": "See", "colour": "red"})],
        lambda made: "'colour' is no parameter" in made["text"],
    ),
    "half an emoji": (
        [("create_real_task", {"description": "cut \ud83d"})],
        lambda made: "cut \ufffd" in made["text"],
    ),
    "life": (
        [
            ("create_real_task", {"description": "See"}),
            ("deploy_headless_agent", {"task_id": "$task", "agent_type": "a", "prompt": "go"}),
            ("update_agent_progress", {**ME, "status": "WORKING", "progress": 50}),
            ("get_agent_output", ME),
            ("kill_real_agent", ME),
        ],
        lambda *all_of_it: (
            all(not each["error"] for each in all_of_it)
            and '"verified_no_zombies":true' in all_of_it[-1]["text"].replace(" ", "")
        ),
    ),
}
#: A client of one call has no life to lead; an object of Python's cannot hold half an emoji.
NOT_POSSIBLE = {"inspector": {"life", "half an emoji"}, "mcp": {"half an emoji"}}
NOT_POSSIBLE["fastmcp"] = NOT_POSSIBLE["mcp"]


def version_of(place: Path, kind: str) -> str:
    if kind in ("mcp", "fastmcp"):
        program = f"from importlib.metadata import version; print(version({kind!r}))"
        return subprocess.check_output([place / "bin" / "python", "-c", program], text=True).strip()
    names = ("sdk", "client") if kind == "typescript" else ("inspector",)
    modules = place / "node_modules" / "@modelcontextprotocol"
    found = next(modules / name for name in names if (modules / name).exists())
    return json.loads((found / "package.json").read_text())["version"]


def command_of(place: Path, kind: str, calls: Path) -> list[str]:
    if kind == "typescript":
        return [
            "node",
            str(HERE / "typescript_client.mjs"),
            str(place / "node_modules"),
            str(calls),
        ]
    return [str(place / "bin" / "python"), str(HERE / "python_client.py"), kind, str(calls)]


def server_in(root: Path) -> list[str]:
    agents = ["--agent-command", "sh -c 'cat; sleep 1000'"]
    return [f"{Path(sys.executable).parent}/orchestrator-core", "--root", str(root), "mcp", *agents]


def answers_of(place: Path, kind: str, root: Path) -> dict[str, list[dict]]:
    """Return the answers to the calls of each case."""
    if kind == "inspector":
        return {
            case: [inspect(place, root, *calls[0])]
            for case, (calls, _) in CASES.items()
            if case not in NOT_POSSIBLE[kind]
        }
    file = root.with_suffix(".json")
    cases = {
        case: calls for case, (calls, _) in CASES.items() if case not in NOT_POSSIBLE.get(kind, ())
    }
    file.write_text(json.dumps([call for calls in cases.values() for call in calls]))
    lines = iter(run([*command_of(place, kind, file), *server_in(root)]).splitlines())
    return {case: [json.loads(next(lines)) for _ in calls] for case, calls in cases.items()}


def inspect(place: Path, root: Path, tool: str, arguments: dict) -> dict:
    """Call one tool with the Inspector."""
    given = [f"{name}={value}" for name, value in arguments.items()]
    how = ["--method", "tools/call", "--tool-name", tool]
    how += [word for each in given for word in ("--tool-arg", each)]
    program = place / "node_modules" / ".bin" / "mcp-inspector"
    wrapper = root.with_suffix(".sh")
    words = " ".join(f"'{word}'" for word in server_in(root)[:4])
    wrapper.write_text(f"#!/bin/sh\nexec {words}\n")
    wrapper.chmod(0o755)
    text = run([str(program), "--cli", str(wrapper), *how])
    try:
        result = json.loads(text)
    except ValueError:
        return {"raises": text[:300]}
    shown = "\n".join(block["text"] for block in result["content"])
    values = result.get("structuredContent")
    return {"text": shown, "error": bool(result.get("isError")), "values": values}


def run(command: list[str]) -> str:
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode:
        print(ran.stderr[-2000:], file=sys.stderr)
    return ran.stdout


def row(place: Path) -> tuple[list[str], bool]:
    name, kind = CLIENTS[place.name]
    with tempfile.TemporaryDirectory() as directory:
        try:
            answers = answers_of(place, kind, Path(directory) / "root")
        except (OSError, StopIteration, ValueError, subprocess.SubprocessError) as error:
            print(f"{place.name}: {error!r}", file=sys.stderr)
            answers = {}
    cells, is_right = [f"{name} {version_of(place, kind)}"], True
    for case, (_, is_as_it_must) in CASES.items():
        if case in NOT_POSSIBLE.get(kind, ()):
            cells.append("-")
            continue
        given = answers.get(case) or [{"raises": "no answer"}]
        try:
            right = "raises" not in json.dumps([*map(sorted, given)]) and is_as_it_must(*given)
        except (KeyError, TypeError):
            right = False
        if not right:
            print(f"{place.name}: {case}: {given}", file=sys.stderr)
        cells.append("yes" if right else "**no**")
        is_right = is_right and bool(right)
    return cells, is_right


def main(directory: Path) -> int:
    rows = [row(directory / name) for name in CLIENTS if (directory / name).exists()]
    lines = [["client", *CASES], ["---"] * (len(CASES) + 1), *(cells for cells, _ in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if rest:
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    print(table)
    return 0 if rows and all(right for _, right in rows) else 1


if __name__ == "__main__":
    os.environ.pop("ORCHESTRATOR_ROOT", None)
    sys.exit(main(Path(sys.argv[1])))
