"""What a server hears and says over pipes: whole lines, in order, and without a thread."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading

import anyio
import pytest

from orchestrator_core.mcp import stdio


@pytest.fixture
def pipe():
    """Two ends: one to read from, one to write into; closed afterwards, if they still are open."""
    ends = [*os.pipe()]
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def shut(pipe, which):
    os.close(pipe[which])
    pipe[which] = -1


async def heard(incoming):
    return [line async for line in incoming]


def in_time(talk, *arguments, backend="asyncio"):
    """Run it; what hangs has failed."""

    async def bounded():
        with anyio.fail_after(60):
            return await talk(*arguments)

    return anyio.run(bounded, backend=backend)


# --- hearing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_lines_come_whole_however_they_were_written(pipe, backend):
    """Cut anywhere, many at once, longer than a pipe holds, and the last without its end."""
    long = "é" * 200_000
    said = f"one\ntwo\n\n{long}\nlast".encode()

    def write():
        for at in range(0, 12, 5):
            os.write(pipe[1], said[at : min(at + 5, 12)])
        left = memoryview(said)[12:]
        while left:
            left = left[os.write(pipe[1], left) :]
        shut(pipe, 1)

    writer = threading.Thread(target=write)
    writer.start()
    found = in_time(heard, stdio.Incoming(pipe[0]), backend=backend)
    writer.join()

    assert ["one\n", "two\n", "\n", f"{long}\n", "last"] == found


def test_what_is_no_text_is_a_line_all_the_same(pipe):
    os.write(pipe[1], b"\xff\xfe\n{}\n")
    shut(pipe, 1)
    assert ["\ufffd\ufffd\n", "{}\n"] == in_time(heard, stdio.Incoming(pipe[0]))


def test_a_file_is_heard_as_a_pipe_is(tmp_path):
    """No event loop can wait for one; it need not."""
    (tmp_path / "said").write_text("one\ntwo\n")
    with (tmp_path / "said").open("rb") as file:
        assert ["one\n", "two\n"] == in_time(heard, stdio.Incoming(file.fileno()))


def test_told_to_end_it_hears_no_more_though_there_is_more(pipe):
    os.write(pipe[1], b"one\ntwo\n")

    async def hear():
        incoming = stdio.Incoming(pipe[0])
        first = await anext(incoming)
        incoming.end()
        return first, await heard(incoming)

    assert ("one\n", []) == in_time(hear)


def test_told_to_end_while_it_waits_it_waits_no_more(pipe):
    async def hear():
        incoming = stdio.Incoming(pipe[0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heard, incoming)
            await anyio.wait_all_tasks_blocked()
            incoming.end()
        return True

    assert in_time(hear)


def test_hearing_and_saying_need_no_thread(pipe):
    """To be handed to one and back is most of what a call would cost."""
    before = set(threading.enumerate())

    async def talk():
        incoming = stdio.Incoming(pipe[0])
        outgoing = stdio.Outgoing(pipe[1], incoming)
        for _ in range(10):
            await outgoing.write("and back\n")
            await outgoing.flush()
            assert "and back\n" == await anext(incoming)
        return set(threading.enumerate()) - before

    assert set() == in_time(talk)


def test_one_that_is_shared_and_does_not_block_is_heard_and_spoken_to_all_the_same(
    pipe, monkeypatch
):
    """Whoever has the other copy may have read, or filled it, before we got to it."""
    too_late = {"read": 2, "write": 2}
    real = {name: getattr(os, name) for name in too_late}

    def late(name, fd, *what):
        if fd in pipe and too_late[name]:
            too_late[name] -= 1
            raise BlockingIOError
        return real[name](fd, *what)

    async def talk():
        incoming = stdio.Incoming(pipe[0])
        await stdio.Outgoing(pipe[1], incoming).write("and back\n")
        return await anext(incoming)

    for name in too_late:
        monkeypatch.setattr(os, name, functools.partial(late, name))
    assert ("and back\n", {"read": 0, "write": 0}) == (in_time(talk), too_late)


# --- saying ------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_keeps_nobody_else_waiting(pipe):
    """More than the pipe holds is written as it is read; meanwhile the loop goes on."""
    said = "é" * 300_000 + "\n"
    found = bytearray()

    async def read(turns):
        while len(found) < len(said.encode()):
            turns.append(len(found))
            await anyio.wait_readable(pipe[0])
            found.extend(os.read(pipe[0], 65536))

    async def talk():
        turns = []
        outgoing = stdio.Outgoing(pipe[1], stdio.Incoming(pipe[0]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outgoing.write, said)
            await anyio.wait_all_tasks_blocked()  # It is stuck, and we are not.
            tasks.start_soon(read, turns)
        return turns

    assert len(in_time(talk)) > 1
    assert said.encode() == found


def test_a_client_that_is_gone_is_told_nothing_and_heard_no_more(pipe):
    """Who hangs up with an answer on its way ends the server, and not by an error."""

    async def talk():
        ears, mouth = os.pipe()
        try:
            incoming = stdio.Incoming(ears)
            outgoing = stdio.Outgoing(pipe[1], incoming)
            shut(pipe, 0)
            await outgoing.write("nobody hears this\n")
            await outgoing.write("nor this\n")
            return await heard(incoming)
        finally:
            os.close(ears)
            os.close(mouth)

    assert [] == in_time(talk)


def test_a_client_that_does_not_read_is_waited_for_no_longer_than_told(pipe):
    """Whether the wait has begun before that or not; then it is taken for gone."""

    async def talk(*, first):
        ears, mouth = os.pipe()
        try:
            incoming = stdio.Incoming(ears)
            outgoing = stdio.Outgoing(pipe[1], incoming)
            async with anyio.create_task_group() as tasks:
                if not first:
                    tasks.start_soon(outgoing.write, "x" * 1_000_000)
                    await anyio.wait_all_tasks_blocked()
                outgoing.hurry(0.01)
                if first:
                    tasks.start_soon(outgoing.write, "x" * 1_000_000)
            return await heard(incoming)
        finally:
            os.close(ears)
            os.close(mouth)

    assert [] == in_time(functools.partial(talk, first=False))
    assert [] == in_time(functools.partial(talk, first=True))


# --- standard input and output -------------------------------------------------------------------

SERVER = """
import os, subprocess, sys, anyio
from orchestrator_core.mcp import stdio

async def serve():
    with stdio.taken() as (incoming, outgoing):
        print("stray")
        subprocess.run(["cat"], check=True)
        async for line in incoming:
            await outgoing.write(line.upper())

anyio.run(serve)
print("restored", sys.stdin.read() == "")
"""


ALONE = SERVER.replace('subprocess.run(["cat"], check=True)', "").rpartition("print")[0]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def server(program=SERVER, redirected="", **how):
    """Run it by a shell, with its descriptors *redirected*."""
    ran = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, program],
        env=BUFFERED,
        timeout=60,
        check=False,
        **{"capture_output": True, **how},
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_what_is_printed_meanwhile_is_none_of_the_clients():
    """And what a child of ours reads is not what the client says."""
    assert (0, b"HELLO\nrestored True\n", b"stray\n") == server(input=b"hello\n")


def test_without_standard_input_there_is_nothing_to_hear():
    """What took its number meanwhile, the event loop perhaps, is left alone."""
    assert (0, b"", b"stray\n") == server(ALONE, "<&-")


def test_without_standard_output_nothing_is_said_and_nothing_spoilt():
    assert (0, b"", b"") == server(ALONE, ">&-", input=b"hello\n")


def test_without_standard_error_what_is_printed_goes_nowhere():
    assert (0, b"HELLO\n", b"") == server(ALONE, "2>&-", input=b"hello\n")


def test_what_is_said_may_go_into_a_file(tmp_path):
    said = tmp_path / "said"
    assert (0, b"", b"stray\n") == server(ALONE, f">{said}", input=b"hello\n")
    assert b"HELLO\n" == said.read_bytes()


def test_a_terminal_that_hangs_up_is_a_client_that_is_gone():
    theirs, ours = os.openpty()  # Of this end, reading is an error then.
    try:

        async def hear():
            incoming = stdio.Incoming(theirs)
            found = []
            async with anyio.create_task_group() as tasks:

                async def listen():
                    found.extend(await heard(incoming))

                tasks.start_soon(listen)
                await anyio.wait_all_tasks_blocked()
                os.close(ours)
            return found

        assert [] == in_time(hear)
    finally:
        os.close(theirs)
