"""YAML as people and editors write it, and as it is written to do harm."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml

from flows.yaml import read_yaml
from models.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-2", 0.04),
        ("1E5", 1e5),
        ("012", 12),
        ("0o14", 12),
        ("-3", -3),
        ("[no, yes, on, off, y, n]", ["no", "yes", "on", "off", "y", "n"]),
        ("[true, False, null, ~]", [True, False, None, None]),
        ("12:30:00", "12:30:00"),
        ("2026-11-26", "2026-11-26"),
        ("'1'", "1"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read_yaml(f"a: {text}".encode(), "f")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_is_read_as_editors_save_it(encoding: str, end: str) -> None:
    assert read_yaml(f"a: Größe{end}b: 1{end}".encode(encoding), "f") == {"a": "Größe", "b": 1}


@pytest.mark.parametrize("indent", [None, 1, "\t"])
def test_json_is_yaml(indent: Any) -> None:
    content = {"a": [1, 2.5e-7, None, True], "b": {"c": "ü"}}
    assert read_yaml(json.dumps(content, indent=indent).encode(), "f") == content


def test_aliases_and_merged_keys_are_written_out() -> None:
    text = "a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: *a"
    assert read_yaml(text.encode(), "f") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", r"f, line 4, column 3: `c` is in line 3 already"),
        ("a:\n\tb: 1", r"f, line 2, column 1: .*found character '\\t'.*: indent by spaces"),
        ("a: [1", r"f, line 1, column \d+: no YAML"),
        ("a: Größe".encode("cp1252"), r"f, line 1, column 6: the byte 0xf6 is not UTF-8.* cp1252 .*: save it as UTF-8"),
        (b"a: 1\nbb: \x81", r"f, line 2, column 5: the byte 0x81"),
        ("a: 1\nb: \x07", r"f, line 2: the character U\+0007"),
        ("1: x", r"f, line 1, column 1: a key that is no name"),
        ("no: x\nnull: y", r"f, line 2, column 1: a key that is no name"),
        ("? [a]\n: 1", "a key that is no name"),
        ("a: 1\n---\nb: 1", "f, line 2, column 1: .*a second document"),
        ("a: !!python/object/apply:os.system [id]", "f, line 1, column 4: .*a tag that is not known here"),
        ("a: !!binary aGk=", "a tag that is not known here"),
        ("a: .nan", "f, line 1, column 4: .nan is no finite number"),
        ("a: 1e999", "1e999 is no finite number"),
        (f"a: {'9' * 5000}", "a whole number of more than 19 digits"),
        (f"a: 0x{'f' * 5000}", "a whole number of more than 19 digits"),
        ("a: !!int x", "x is no number"),
        ("a: *b", "f, line 1, column 4: .*undefined alias"),
        ("a: &a [*a]", "f, line 1, column 4: a value that is a part of itself"),
        (bomb(9), r"f, line \d, column 5: more than 20000 values"),
        ("[" * 200_000, "f, line 1, column 33: more than 32 levels"),
        ("- x\n" * 200_000, "more than 20000 values"),
        ("a: " + "x" * 2**20, "f has more than 1 MiB"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_what_is_no_configuration_is_refused_with_its_place(text: str | bytes, message: str) -> None:
    begun = time.process_time()  # others may be at work on the machine
    with pytest.raises(ConfigurationError, match=message) as error:
        read_yaml(text if isinstance(text, bytes) else text.encode(), "f")
    assert "suppress" not in str(error.value) and "http" not in str(error.value) and "\n" not in str(error.value)
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "tasks/demo").glob("*.yaml"), *(ROOT / "deployments").glob("*.yaml")]),
    ids=lambda p: p.name,
)
def test_our_own_files_mean_what_they_meant_to_another_parser(path: Path) -> None:
    assert read_yaml(path.read_bytes(), path.name) == pyyaml.safe_load(path.read_text())
