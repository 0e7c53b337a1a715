"""What an agent has written: the end of it, or a page, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support.fakes import a_fake_scene

from orchestrator_core import AgentOutput, InvalidInput, cli
from orchestrator_core.deployment.output_reader import read_part

TOP = Path(__file__).parents[2]


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


@pytest.fixture
def written(scene):
    """Deploy an agent, and let it write."""

    def write(data):
        orch = scene.orchestrator()
        agent = orch.deploy(orch.create_task("See").id, scene.spec())
        log = orch.root / agent.task_id / "logs" / f"{agent.id}_stream.jsonl"
        log.write_bytes(data.encode() if isinstance(data, str) else data)
        return orch, agent.id

    return write


@pytest.fixture(params=["plain", "compressed"])
def log(request, tmp_path):
    """Write a log, as it is or as retention leaves it; return a reader of it."""

    def write(data):
        path = tmp_path / "a_stream.jsonl"
        if request.param == "plain":
            path.write_bytes(data)
        else:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))

        def read(**how):
            return read_part(path, **{"tail": None, "offset": None, "max_bytes": None, **how})

        return read

    return write


def range_of(output):
    return str(output), output.offset, output.next_offset, output.size, output.truncated


# --- lines ---------------------------------------------------------------------------------------


def test_only_a_newline_ends_a_line(written):
    """JSON may contain every other line separator as it is."""
    last = json.dumps({"text": "one\u2028two\u0085three\x1cfour"}, ensure_ascii=False)
    orch, agent = written(f"first\n{last}\n")

    assert f"{last}\n" == orch.read_output(agent, tail=1)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, ("one\ntwo\nthree", 0, 13, 13, False)),
        ({"tail": 1}, ("three", 8, 13, 13, False)),
        ({"tail": 2}, ("two\nthree", 4, 13, 13, False)),
        ({"tail": 3}, ("one\ntwo\nthree", 0, 13, 13, False)),
        ({"tail": 9}, ("one\ntwo\nthree", 0, 13, 13, False)),
        ({"tail": 0}, ("", 13, 13, 13, False)),
        ({"max_bytes": 13}, ("one\ntwo\nthree", 0, 13, 13, False)),
        ({"max_bytes": 12}, ("two\nthree", 4, 13, 13, True)),
        ({"max_bytes": 9}, ("two\nthree", 4, 13, 13, True)),
        ({"max_bytes": 8}, ("three", 8, 13, 13, True)),
        ({"max_bytes": 4}, ("hree", 9, 13, 13, True)),
        ({"max_bytes": 0}, ("", 13, 13, 13, True)),
        ({"max_bytes": 9, "tail": 2}, ("two\nthree", 4, 13, 13, False)),
        ({"max_bytes": 9, "tail": 3}, ("two\nthree", 4, 13, 13, True)),
        ({"max_bytes": 8, "tail": 2}, ("three", 8, 13, 13, True)),
        ({"offset": 0, "max_bytes": 9}, ("one\ntwo\n", 0, 8, 13, True)),
        ({"offset": 8, "max_bytes": 9}, ("three", 8, 13, 13, False)),
        ({"offset": 8, "max_bytes": 3}, ("thr", 8, 11, 13, True)),
        ({"offset": 13}, ("", 13, 13, 13, False)),
        ({"offset": 99}, ("", 13, 13, 13, False)),
    ],
)
def test_a_part_knows_its_place_in_the_whole(log, how, expected):
    """Whole lines, unless one line alone exceeds the limit."""
    assert expected == range_of(log(b"one\ntwo\nthree")(**how))


def test_a_last_line_with_an_end_counts_as_one_line(log):
    assert ("two\n", 4, 8, 8, False) == range_of(log(b"one\ntwo\n")(tail=1))


def test_an_empty_log_has_no_part(log):
    read = log(b"")
    for how in ({}, {"tail": 3}, {"offset": 0}, {"max_bytes": 5}):
        assert ("", 0, 0, 0, False) == range_of(read(**how))


def test_long_lines_are_cut_between_characters(log):
    """A piece of a line is Unicode, as the line is."""
    read = log("é€😀".encode() * 10)

    for limit in range(5, 40):
        assert "\ufffd" not in read(max_bytes=limit)
        assert "\ufffd" not in read(offset=0, max_bytes=limit)


@pytest.mark.parametrize("chunk", [70_000, 3_000_000])
def test_lines_longer_than_a_chunk_are_found_from_the_end(log, chunk):
    lines = [bytes([65 + number]) * chunk + b"\n" for number in range(4)]
    read = log(b"".join(lines))

    for count in range(1, 5):
        assert b"".join(lines[-count:]).decode() == read(tail=count)


@pytest.mark.parametrize("limit", [3, 7, 64, 100_000])
def test_the_pages_of_an_output_are_the_output(log, limit):
    """Each begins where the one before it ended, whatever the limit."""
    whole = "".join(f"line {number} é\n" for number in range(200)) + "x" * 300
    read, pages = log(whole.encode()), []
    while not pages or pages[-1].next_offset < pages[-1].size:
        pages.append(read(offset=pages[-1].next_offset if pages else 0, max_bytes=limit))

    assert whole == "".join(pages)
    assert all(page.truncated for page in pages[:-1])
    assert not pages[-1].truncated


def test_a_page_after_the_end_has_what_was_written_since(written):
    orch, agent = written("one\n")
    first = orch.read_output(agent, offset=0)
    log = next(orch.root.glob("TASK-*/logs/*_stream.jsonl"))
    with log.open("a") as file:
        file.write("two\n")

    assert "two\n" == orch.read_output(agent, offset=first.next_offset)


def test_an_output_can_be_read_as_a_file(written):
    orch, agent = written("one\ntwo\n")
    with orch.open_output(agent) as live:
        assert [b"one\n", b"two\n"] == [*live]
    orch.terminate(agent)
    with orch.open_output(agent) as archived:
        assert b"one\ntwo\n" == archived.read()


@pytest.mark.parametrize(
    "how",
    [
        {"tail": -1},
        {"offset": -1},
        {"max_bytes": -1},
        {"tail": "5"},
        {"tail": True},
        {"tail": 1, "offset": 1},
    ],
)
def test_a_part_that_cannot_be_is_refused(written, how):
    orch, agent = written("one\n")
    with pytest.raises(InvalidInput):
        orch.read_output(agent, **how)


def test_an_output_is_a_text_like_any_other():
    output = AgentOutput.of(b"a\xff\n", offset=3, size=9, truncated=True)

    assert "a\ufffd\n" == output
    assert '"a\\ufffd\\n"' == json.dumps(output)
    assert b'"a\xef\xbf\xbd\\n"' == msgspec.json.encode(str(output))


# --- memory and time -----------------------------------------------------------------------------

_TAIL = '''
import os, resource, sys, time
from pathlib import Path
from orchestrator_core.deployment.output_reader import read_part

def peak():
    """Return the most memory so far, in kB. What getrusage returns includes the parent's."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

path, how = Path(sys.argv[1]), {"tail": None, "offset": None, "max_bytes": 8 << 20}
before = peak()
began = time.perf_counter()
tail = read_part(path, **{**how, "tail": 5})
took = time.perf_counter() - began
of_tail = peak() - before
read_part(path, **how)
read_part(path, **{**how, "offset": 500_000_000})
print(len(tail), of_tail, peak() - before, took)
'''


def test_the_end_of_a_gigabyte_takes_little_memory_and_no_time(tmp_path):
    """The last lines: at most 30 MB over rest, and 50 ms. A sparse file is as long as another."""
    path = tmp_path / "a_stream.jsonl"
    with path.open("wb") as file:
        file.truncate(1_000_000_000)
        file.seek(0, os.SEEK_END)
        file.writelines(b"%d " % number + b"x" * 90 + b"\n" for number in range(100_000))

    ran = subprocess.run(
        [sys.executable, "-c", _TAIL, str(path)],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    )

    length, of_tail_kb, of_all_kb, took_s = map(float, ran.stdout.split())
    assert 5 * 97 == length
    assert 30_000 > of_tail_kb
    assert 40_000 > of_all_kb
    assert 1 > took_s  # 50 ms on an idle machine.


# --- the command line ----------------------------------------------------------------------------


def shown(scene, capsys, *arguments):
    code = cli.main(["--root", str(scene.root), "show", *arguments])
    return code, capsys.readouterr().out


def test_show_reads_the_end_or_a_page(scene, written, capsys):
    _, agent = written("one\u2028still one\ntwo\nthree\n")

    code, out = shown(scene, capsys, agent, "--tail", "2")
    assert (0, True) == (code, out.endswith("the last 2 lines\n    two\n    three\n"))
    code, out = shown(scene, capsys, agent)
    assert "the last 10 lines\n    one still one\n    two\n" in out
    code, out = shown(scene, capsys, agent, "--offset", "16", "--max-bytes", "5")
    assert out.endswith("bytes 16 to 20 of 26\n    two\n")
    code, out = shown(scene, capsys, agent, "--max-bytes", "6")
    assert "truncated" in out


def test_show_as_json_has_the_range_of_the_output(scene, written, capsys):
    _, agent = written("one\ntwo\n")
    cli.main(["--root", str(scene.root), "--json", "show", agent, "--tail", "1"])
    data = json.loads(capsys.readouterr().out)

    assert "two\n" == data["output"]
    assert {"offset": 4, "next_offset": 8, "size": 8, "truncated": False} == data["output_range"]


def test_show_refuses_a_tail_of_a_page(scene, written):
    _, agent = written("one\n")
    with pytest.raises(SystemExit):
        cli.main(["--root", str(scene.root), "show", agent, "--tail", "1", "--offset", "0"])
