"""A root with ended agents of any age, counted by hand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model import settings

DAY_S = 86400


def end_some(scene, count=1, *, task=None, written=b""):
    """Deploy and end *count* agents; return the orchestrator, their task and their ids."""
    orch = scene.orchestrator()
    task = task or orch.create_task("past").id
    ids = []
    for _ in range(count):
        agent = orch.deploy(task, scene.spec())
        if written:
            scene.fake.write(agent.tmux_session, written)
        orch.terminate(agent.id)
        ids.append(agent.id)
    return orch, task, ids


def age(root, days, *, pattern="**/*"):
    """Set the times of files to *days* ago; not those of directories, locks and registries."""
    then = time.time() - days * DAY_S
    for path in Path(root).glob(pattern):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(".lock"):
            os.utime(path, (then, then))


def write_settings(root, text):
    """Write the root's settings, and approve them as their user would."""
    path = Path(root) / "orchestrator.toml"
    path.write_text(text)
    path.chmod(0o600)
    with contextlib.suppress(InvalidInput):  # A test of a file that is refused.
        settings.approve(Path(root))


def summary(root):
    """Read the summary of removed journals by hand."""
    path = Path(root) / "registry" / "STATS.json"
    return json.loads(path.read_text()) if path.exists() else {}


def cleanups(root):
    """Count all cleanups by hand, from the summary and from the journals."""
    removed = summary(root)
    counted = Counter()
    for row in removed.get("cleanups", ()):
        counted[row["reason"], row["outcome"]] += row["count"]
    for path in (Path(root) / "sagas" / "closed").glob("*.jsonl"):
        if path.stem not in removed.get("pending", ()):
            last = json.loads(path.read_text().splitlines()[-1])
            assert "close" == last["kind"]
            why = last["report"]["why"]
            by = why["detail"].get("by") if why["reason"] == "terminal" else why["reason"]
            counted[by, "clean"] += 1
    return dict(counted)


def archives(root):
    """Return the names of all archived files."""
    return sorted(path.name for path in Path(root).glob("TASK-*/archive/*"))


def journals(root):
    return sorted(path.stem for path in (Path(root) / "sagas" / "closed").glob("*.jsonl"))


def put_back(template, place):
    """Make *place* a copy of *template*, times included."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)
