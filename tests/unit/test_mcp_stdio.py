"""The server's streams: whole lines, in order, and an end that no client can delay."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import anyio
import pytest

from orchestrator_core.mcp.stdio import StdinLines, StdoutWriter


@pytest.fixture
def pipe():
    """Two ends: one to read from, one to write into; closed afterwards, if they still are open."""
    ends = [*os.pipe()]
    yield ends
    # An abandoned thread may still use an end, whose number must not become another file's.
    for thread in threading.enumerate():
        if thread.name == "AnyIO worker thread":
            thread.join(60)
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def shut(pipe, which):
    os.close(pipe[which])
    pipe[which] = -1


async def collect(lines):
    return [line async for line in lines]


def in_time(talk, *arguments, backend="asyncio"):
    """Run *talk*, and fail after 60 s."""

    async def bounded():
        with anyio.fail_after(60):
            return await talk(*arguments)

    return anyio.run(bounded, backend=backend)


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_lines_come_whole_however_they_were_written(pipe, backend):
    """Cut anywhere, many at once, longer than a pipe holds, and the last without its end."""
    long = "é" * 200_000
    written = f"one\ntwo\n\n{long}\nlast".encode()

    def write():
        for at in range(0, 12, 5):
            os.write(pipe[1], written[at : min(at + 5, 12)])
        left = memoryview(written)[12:]
        while left:
            left = left[os.write(pipe[1], left) :]
        shut(pipe, 1)

    writer = threading.Thread(target=write)
    writer.start()
    found = in_time(collect, StdinLines(pipe[0]), backend=backend)
    writer.join()

    assert ["one\n", "two\n", "\n", f"{long}\n", "last"] == found


def test_bytes_that_are_not_utf8_are_a_line_all_the_same(pipe):
    os.write(pipe[1], b"\xff\xfe\n{}\n")
    shut(pipe, 1)
    assert ["\ufffd\ufffd\n", "{}\n"] == in_time(collect, StdinLines(pipe[0]))


def test_a_file_is_read_as_a_pipe_is(tmp_path):
    (tmp_path / "requests").write_text("one\ntwo\n")
    with (tmp_path / "requests").open("rb") as file:
        assert ["one\n", "two\n"] == in_time(collect, StdinLines(file.fileno()))


def test_a_stopped_reader_returns_no_more_lines_though_there_are_more(pipe):
    os.write(pipe[1], b"one\ntwo\n")

    async def read():
        lines = StdinLines(pipe[0])
        first = await anext(lines)
        lines.stop()
        return first, await collect(lines)

    assert ("one\n", []) == in_time(read)


def test_a_reader_that_is_stopped_while_it_waits_ends_at_once(pipe):
    """The reader's thread is abandoned, and ends with the pipe."""

    async def read():
        lines = StdinLines(pipe[0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, lines)
            await anyio.wait_all_tasks_blocked()
            lines.stop()
        shut(pipe, 1)
        return True

    assert in_time(read)


# --- writing -----------------------------------------------------------------------------------


def test_a_client_that_does_not_read_delays_no_other_task(pipe):
    """More than the pipe holds is written as it is read; meanwhile the loop goes on."""
    answer = "é" * 300_000 + "\n"
    found = bytearray()

    async def read(turns):
        while len(found) < len(answer.encode()):
            turns.append(len(found))
            await anyio.wait_readable(pipe[0])
            found.extend(os.read(pipe[0], 65536))

    async def talk():
        turns = []
        stdout = StdoutWriter(pipe[1], StdinLines(pipe[0]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stdout.write, answer)
            await anyio.wait_all_tasks_blocked()  # The writer waits, and the loop does not.
            tasks.start_soon(read, turns)
        return turns

    assert len(in_time(talk)) > 1
    assert answer.encode() == found


def talk_without_reader(pipe, talk):
    """Run *talk* with a writer whose client is at *pipe*; return the lines that come after it."""

    async def run():
        requests, client = os.pipe()
        try:
            lines = StdinLines(requests)
            await talk(StdoutWriter(pipe[1], lines))
            return await collect(lines)
        finally:
            os.close(requests)
            os.close(client)

    return in_time(run)


def test_a_client_that_has_gone_gets_nothing_and_is_read_no_more(pipe):
    """A client that goes away before its answer ends the server, and not by an error."""
    shut(pipe, 0)

    async def talk(stdout):
        await stdout.write("no reader for this\n")
        await stdout.write("nor for this\n")

    assert [] == talk_without_reader(pipe, talk)


@pytest.mark.parametrize("first", ["the deadline", "the write"])
def test_a_client_that_does_not_read_counts_as_gone_after_the_deadline(pipe, first):
    async def talk(stdout):
        async with anyio.create_task_group() as tasks:
            if first == "the write":
                tasks.start_soon(stdout.write, "x" * 1_000_000)
                await anyio.wait_all_tasks_blocked()
            stdout.set_write_deadline(0.01)
            if first == "the deadline":
                tasks.start_soon(stdout.write, "x" * 1_000_000)
        shut(pipe, 0)  # The abandoned thread ends by this.

    assert [] == talk_without_reader(pipe, talk)


# --- standard input and output -------------------------------------------------------------------

SERVER = """
import os, subprocess, sys, anyio
from orchestrator_core.mcp.stdio import redirect_stdio

async def serve():
    lines, stdout = redirect_stdio()
    print("stray")
    subprocess.run(["cat"], check=True)
    async for line in lines:
        await stdout.write(line.upper())

anyio.run(serve)
"""


ALONE = SERVER.replace('subprocess.run(["cat"], check=True)', "")
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def server(program=SERVER, redirected="", **options):
    """Run it by a shell, with its descriptors *redirected*."""
    ran = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, program],
        env=BUFFERED,
        timeout=60,
        check=False,
        **{"capture_output": True, **options},
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_prints_and_child_processes_do_not_touch_the_clients_streams():
    assert (0, b"HELLO\n", b"stray\n") == server(input=b"hello\n")


def test_a_closed_standard_input_is_an_empty_one():
    """A file that has its number meanwhile, the event loop's perhaps, is left alone."""
    assert (0, b"", b"stray\n") == server(ALONE, "<&-")


def test_a_closed_standard_output_drops_the_answers_and_harms_no_file():
    assert (0, b"", b"") == server(ALONE, ">&-", input=b"hello\n")


def test_a_closed_standard_error_drops_the_prints():
    assert (0, b"HELLO\n", b"") == server(ALONE, "2>&-", input=b"hello\n")


def test_a_file_may_take_the_answers(tmp_path):
    answers = tmp_path / "answers"
    assert (0, b"", b"stray\n") == server(ALONE, f">{answers}", input=b"hello\n")
    assert b"HELLO\n" == answers.read_bytes()


def test_a_terminal_that_hangs_up_ends_the_input():
    remote, local = os.openpty()  # After the hang-up, reading from this end is an error.
    try:

        async def hang_up():
            await anyio.wait_all_tasks_blocked()
            os.close(local)

        async def read():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang_up)
                return await collect(StdinLines(remote))

        assert [] == in_time(read)
    finally:
        os.close(remote)
