"""
A reader of Prometheus's text format 0.0.4, from its description and nothing else.

The parser is as strict as the description: metadata before samples, one block for each
metric, names and labels of the right characters, escapes undone, numbers as Go
reads them, a newline at the very end.
"""

from __future__ import annotations

import re

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)( -?\d+)?")
_VALUE = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]Inf|NaN")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def read(text):
    """Return {metric: {"type", "help", "samples": {(name, labels): value}}}."""
    assert text.endswith("\n"), "the last line has no end"
    found, now = {}, None
    for line in text.split("\n")[:-1]:
        if meta := re.fullmatch(rf"# (HELP|TYPE) ({_NAME}) (.*)", line):
            kind, name, rest = meta.groups()
            if now != name:
                assert name not in found, f"{name} has two blocks"
                found[name], now = {"samples": {}}, name
            assert kind.lower() not in found[name], f"{name} has two {kind}s"
            assert not found[name]["samples"], f"{name}: {kind} after samples"
            found[name][kind.lower()] = rest
        else:
            name, labels, value = _sample(line)
            of = found[now]
            allowed = [now + suffix for suffix in _SUFFIXES.get(of["type"], ("",))]
            assert name in allowed, f"{name} among the samples of {now}"
            assert (name, labels) not in of["samples"], f"{line} twice"
            of["samples"][name, labels] = value
    for name, one in found.items():
        assert one["type"] in {"counter", "gauge", "histogram"}, name
        assert one["type"] != "counter" or name.endswith("_total"), name
        if one["type"] == "histogram":
            _check_histogram(name, one["samples"])
    return found


def _sample(line):
    whole = _SAMPLE.fullmatch(line)
    assert whole, f"no sample: {line!r}"
    name, inside, value, _ = whole.groups()
    labels, rest = {}, inside or ""
    while rest:
        one = _LABEL.match(rest)
        assert one, f"no labels: {rest!r}"
        assert one[1] not in labels
        labels[one[1]] = re.sub(r"\\(.)", lambda e: "\n" if e[1] == "n" else e[1], one[2])
        rest = rest[one.end() :]
        assert not rest or rest.startswith(","), rest
        rest = rest.removeprefix(",")
    assert _VALUE.fullmatch(value), f"no number: {value}"
    return name, frozenset(labels.items()), float(value)


def _check_histogram(name, samples):
    for others in {labels_without_le(labels) for _, labels in samples}:
        mine = {key: n for key, n in samples.items() if labels_without_le(key[1]) == others}
        _check_one_histogram(name, mine)


def labels_without_le(labels):
    return frozenset((label, value) for label, value in labels if label != "le")


def _check_one_histogram(name, samples):
    buckets, total = [], {}
    for (sample, labels), value in samples.items():
        total[sample] = value
        if sample == f"{name}_bucket":
            buckets.append((float(dict(labels)["le"]), value))
    assert sorted(buckets) == buckets, "bounds are not in order"
    assert [n for _, n in buckets] == sorted(n for _, n in buckets), "buckets do not add up"
    assert buckets[-1] == (float("inf"), total[f"{name}_count"])
    assert f"{name}_sum" in total


def values(found, metric, **wanted):
    """Return the values of a metric's samples that have these labels."""
    return [
        value
        for (_, labels), value in found[metric]["samples"].items()
        if wanted.items() <= dict(labels).items()
    ]
