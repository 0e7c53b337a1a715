"""
The floor of `orchestrator-core progress`: a bare Python that does the same to the disk.

    python -I -S floor_start_up.py TASK_DIRECTORY AGENT

It appends a line to the agent's file and replaces the task's registry, each
durably, under the registry's lock. No imports but `os`, `sys` and `fcntl`.
"""

# ruff: noqa: PTH104 - the floor is bare

import fcntl
import os
import sys

task, agent = sys.argv[1:]
lock = os.open(f"{task}/AGENT_REGISTRY.json.lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
registry = f"{task}/AGENT_REGISTRY.json"
fd = os.open(registry, os.O_RDONLY)
document = os.read(fd, 1 << 20)
os.close(fd)
fd = os.open(f"{task}/progress/{agent}_progress.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(fd, b'{"status": "working"}\n')
os.fsync(fd)
os.close(fd)
fd = os.open(f"{registry}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
os.write(fd, document)
os.fsync(fd)
os.close(fd)
os.rename(f"{registry}.tmp", registry)
os.close(lock)
fd = os.open(task, os.O_RDONLY | os.O_DIRECTORY)
os.fsync(fd)
