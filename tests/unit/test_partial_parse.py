"""The partial parser of a damaged registry: it loses only what is damaged."""

import json

import pytest

from orchestrator_core.registry import GLOBAL, TASK
from orchestrator_core.registry.document import encode
from orchestrator_core.registry.partial_parse import parse_what_is_left


def record(number, **more):
    name = f"a-{number}"
    return {
        "id": name,
        "type": "a",
        "tmux_session": f"agent_{name}",
        "parent": "orchestrator",
        "depth": 1,
        "status": "running",
        "progress": number,
        "message": 'said: "id": {3}, "x": [',
        "tracked_files": {"prompt_file": f"/p/{name}", "log_file": f"/l/{name}"},
        "mine": {"deep": [1, 2, {"status": "no"}], "id": "not an agent"},
        **more,
    }


DOCUMENT = {
    "schema_version": 1,
    "task_id": "TASK-1",
    "task_description": 'find "it": {now}',
    "created_at": "2026-01-01T00:00:00+00:00",
    "client_cwd": "/x",
    "agents": [record(number) for number in range(3)],
    "agent_hierarchy": {"orchestrator": ["a-0", "a-1", "a-2"]},
    "max_agents": 200,
}

LAYOUTS = {
    "ours": lambda document: encode(document, TASK),
    "of Python and jq": lambda document: json.dumps(document, indent=2).encode(),
    "wide": lambda document: json.dumps(document, indent=4).encode(),
    "on one line": lambda document: json.dumps(document).encode(),
}
STEP = 7  #: Every seventh byte is damaged in turn.


@pytest.fixture(params=LAYOUTS)
def written(request):
    return LAYOUTS[request.param](DOCUMENT)


def test_a_whole_document_is_parsed_whole(written):
    assert DOCUMENT == parse_what_is_left(written, TASK)


@pytest.mark.parametrize("damage", [b"\0", b'"', b"\n"])
def test_a_bad_byte_costs_one_record_at_most_and_of_that_little(damage, written):
    """All other records are unchanged; the damaged record loses at most four fields."""
    for at in range(0, len(written), STEP):
        broken = written[:at] + damage + written[at + 1 :]
        found = {
            each.get("id", f"at {at}"): each for each in parse_what_is_left(broken, TASK)["agents"]
        }
        whole = [each for each in DOCUMENT["agents"] if found.get(each["id"]) == each]
        assert len(whole) >= 2, at
        [*torn] = [each for each in DOCUMENT["agents"] if each not in whole]
        for each in torn:
            rest = [other for name, other in found.items() if other not in whole]
            equal_fields = [sum(each[name] == other.get(name) for name in each) for other in rest]
            assert max(equal_fields, default=0) >= len(each) - 4, (at, each["id"], rest)


def test_a_truncated_document_keeps_its_beginning(written):
    """Every record that ends before the cut is whole, and so are the fields before it."""
    ends = [written.rindex(json.dumps(f"a-{n}").encode(), 0, len(written)) for n in range(3)]
    for at in range(0, len(written), STEP):
        found = parse_what_is_left(written[:at], TASK)
        for one, last_of_it in zip(DOCUMENT["agents"][:-1], ends[1:], strict=False):
            if written.find(b'"id": "' + one["id"].encode(), 0, at) >= 0 and at > last_of_it:
                assert one in found["agents"], at
    cut = written[: written.index(b'"mine"')]
    [torn] = parse_what_is_left(cut, TASK)["agents"]
    assert DOCUMENT["agents"][0].items() >= torn.items()
    assert "said" in torn["message"]


@pytest.mark.parametrize("size", [64, 512])
def test_a_lost_block_costs_only_its_own_records(size, written):
    """A disk may leave a block of zeros. Records outside the block are unchanged."""
    for at in range(0, len(written) - size, 41):
        broken = written[:at] + bytes(size) + written[at + size :]
        found = parse_what_is_left(broken, TASK)["agents"]
        for one in DOCUMENT["agents"]:
            text = json.dumps(one).encode()
            start = broken.find(text)
            if start >= 0:
                assert one in found, at


def test_the_documents_own_fields_are_parsed_line_by_line():
    """One bad line costs only that line."""
    for layout in ("ours", "of Python and jq", "wide"):
        lines = LAYOUTS[layout](DOCUMENT).split(b"\n")
        for number, line in enumerate(lines):
            broken = b"\n".join([*lines[:number], b"#" * len(line), *lines[number + 1 :]])
            found = parse_what_is_left(broken, TASK)
            for name in ("task_description", "created_at", "client_cwd", "max_agents"):
                if f'"{name}"'.encode() not in line:
                    assert DOCUMENT[name] == found.get(name), (layout, number, name)


def test_a_field_name_with_one_bad_character_is_recognized():
    """A record is recognized by its session, and a field by the rest of its name."""
    text = encode(DOCUMENT, TASK).replace(b'"id": "a-1"', b'"ie": "a-1"')
    text = text.replace(b'"progress": 2', b'"prpgress": 2').replace(b'"task_d', b'"task.d')
    found = parse_what_is_left(text[:-4], TASK)  # and its end is gone: it is no JSON any more
    assert DOCUMENT["agents"] == [
        {name: each[name] for name in record(0)} for each in found["agents"]
    ]
    assert DOCUMENT["task_description"] == found["task_description"]


def test_json_within_an_agents_text_is_no_record():
    """JSON inside a text stays text."""
    evil = record(7, message='{"id": "evil", "type": "a", "status": "running", "parent": "x"}')
    document = {**DOCUMENT, "agents": [evil]}
    for layout in LAYOUTS.values():
        text = layout(document)
        assert ["a-7"] == [each["id"] for each in parse_what_is_left(text[:-3], TASK)["agents"]]


@pytest.mark.parametrize("data", [b"", b"\0" * 500, b"[]", b"{", b"no JSON at all", b"\xff\xfe"])
def test_data_without_any_record_gives_an_empty_document(data):
    assert {"agents": []} == parse_what_is_left(data, TASK)
    assert {"tasks": {}, "agents": {}, "ended": {}} == parse_what_is_left(data, GLOBAL)


def test_the_global_registry_is_parsed_entry_by_entry():
    document = {
        "schema_version": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "past_tasks": 7,
        "ended": {"completed": 3},
        "tasks": {f"TASK-{n}": {"description": "d", "status": "x", "key": None} for n in range(3)},
        "agents": {f"a-{n}": {"task_id": "TASK-1", "type": "a", "key": f"k{n}"} for n in range(3)},
        "theirs": {"x": 1},
    }
    for text in (encode(document, GLOBAL), json.dumps(document, indent=2).encode()):
        broken = text.replace(b'"task_id": "TASK-1", "type": "a", "key": "k1"', b"#")
        found = parse_what_is_left(broken[:-2], GLOBAL)
        for name in ("past_tasks", "ended", "theirs", "tasks"):
            assert document[name] == found[name], name
        assert {"a-0", "a-2"} <= found["agents"].keys()


def test_a_hostile_document_costs_a_limited_number_of_attempts():
    """Without the limit, endless brackets could take hours."""
    for text in (b"{" * 50_000, b'{"a":' * 20_000, b'[{"id": "' * 20_000, b'"' * 50_000):
        assert [] == parse_what_is_left(text, TASK)["agents"]
