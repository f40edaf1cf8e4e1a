"""Cohort tables as people have them: read, or refused with the row and what is wrong with it."""

import codecs
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from tasks.cohort.table import Row, is_table, read_table
from tasks.storage.location import Location

PLAIN = "uri,id,label\nimages/1.png,007,normal\ngröße.png,8,läsion\n"
ROWS = [Row(1, ("images/1.png",), "007", "normal"), Row(2, ("größe.png",), "8", "läsion")]


def read(path: Path, data: str | bytes) -> list[Row]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_table(Location(url=str(path)))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_any_separator_end_of_line_and_encoding(tmp_path: Path, separator: str, end: str, encoding: str) -> None:
    text = PLAIN.replace(",", separator).replace("\n", end)
    assert read(tmp_path / "t.csv", text.encode(encoding)) == ROWS


def test_utf_16_of_either_order_with_its_mark(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be")) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.rstrip("\n"),
        f"sep=;\r\n{PLAIN.replace(',', ';')}",
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("uri,id,label", " URI , Id,LABEL\t"),
        PLAIN.replace("uri,id,label", '"uri","id","label"'),
        PLAIN + ",,\n\n  ,,\n",
        "\n" + PLAIN,
        PLAIN.replace("images/1.png,007,normal", " images/1.png , 007,\u00a0normal "),
        PLAIN.replace("ä", "a\u0308"),
    ],
    ids=["no end", "sep=", "empty column", "header", "quotes", "blank rows", "blank line", "blanks", "NFD"],
)
def test_what_spreadsheets_and_hands_add_is_left_out(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "t.csv", text) == ROWS


def test_blank_rows_count_and_quotes_hold_what_they_hold(tmp_path: Path) -> None:
    text = 'uri,label\n\n"a, b.png","one\nor ""two"""\n,\nc.png\n'
    assert read(tmp_path / "t.csv", text) == [Row(2, ("a, b.png",), label='one\nor "two"'), Row(4, ("c.png",))]


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.Tsv", "t.parquet", "T.PARQUET"])
def test_tables_are_told_by_their_names_in_any_case(tmp_path: Path, name: str) -> None:
    assert is_table(Location(url=str(tmp_path / name)))
    assert not is_table(Location(url=f"{tmp_path / name}/"))


def test_cp1252_is_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path / "t.csv", PLAIN.encode("cp1252")) == ROWS
    assert "is not UTF-8 (line 3, byte 0xf6) and is read as cp1252" in caplog.text and "sion" not in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("uri,label\na.png,x\nDoe.png,y,Doe\n", "row 2 of .* has a cell in column 3, which has no name"),
        (",uri\n0,a.png\n", r"row 1 of .* has a cell in column 1, .*pandas: index=False"),
        ("uri,label\na.png,x\n,Doe\n", "row 2 of .* has no `uri`"),
        ("uri,URI\na,b\n", "has the column `uri` twice"),
        ("uri;Doe\na;b\n", r"columns that are not known \(counted from the left: 2\).*with semicolons"),
        ("", "has no column `uri`"),
        ("Doe\nx\n", r"has no column `uri`.*read as UTF-8, with commas"),
        ('uri,label\na.png,x\nb.png,"Doe\nc.png,y\n', "cannot be read from row 2 on.*a quote is not closed"),
        ('uri,label\na.png,"Do"e\n', "cannot be read from row 1 on"),
        (f"uri,label\na.png,{'Doe' * 90000}\n", "cannot be read from row 1 on.* longer than 128 KiB"),
        (b"uri,label\na.png,Do\x81\n", "neither UTF-8 nor cp1252 .line 2, byte 0x81.: save it as UTF-8"),
        (b"uri,label\na.png,\xc3\xa4\nb.png,\xe4\n", "is UTF-8 but for some bytes .line 3, byte 0xe4"),
        (codecs.BOM_UTF16_LE + b"u\0r\0i", "begins as UTF-16 and is not"),
        ("uri\na\0b.png\n", "row 1 of .* has a NUL character"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_row_and_quotes_nothing(
    tmp_path: Path, data: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "t.csv", data)
    assert str(error.value).startswith("cohort.source: ") and "Doe" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 1, None], ["0", "1", None]),
        (pd.Series([0, 1, None], dtype="Int64"), ["0", "1", None]),
        (pd.Series([0, 1, None], dtype="float32"), ["0", "1", None]),
        ([0.5, 1, None], ["0.5", "1.0", None]),
        ([2**53 + 1, 7, 8], [str(2**53 + 1), "7", "8"]),
        ([True, None, False], ["True", None, "False"]),
        (pd.Categorical(["b", None, "a"]), ["b", None, "a"]),
        (pd.Categorical([3, None, 1]), ["3", None, "1"]),
        ([Decimal("1.00"), None, Decimal(2)], ["1", None, "2"]),
        ([date(2026, 1, 2), None, date(2026, 1, 3)], ["2026-01-02", None, "2026-01-03"]),
        ([datetime(2026, 1, 2), None, datetime(2026, 1, 3)], ["2026-01-02", None, "2026-01-03"]),
        ([datetime(2026, 1, 2, 3), None, None], ["2026-01-02T03:00:00", None, None]),
        ([b"a", None, b"b"], ["a", None, "b"]),
        ([" a", "", " "], ["a", None, None]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_values_of_parquet_are_text_as_people_write_them(tmp_path: Path, values: object, texts: list[str]) -> None:
    pd.DataFrame({"uri": ["a", "b", "c"], "label": values, "id": values, "subject": values}).to_parquet(
        tmp_path / "t.parquet"
    )
    rows = read_table(Location(url=str(tmp_path / "t.parquet")))
    assert [(row.id, row.label, row.subject) for row in rows] == [(text,) * 3 for text in texts]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"uri": ["a", "b"], "subject": [12345678901234567.0, None]}, "`subject`, which lose their last digits"),
        ({"uri": ["a", "b"], "label": [["Doe"], ["Doe"]]}, "holds list<.*> in the column `label`"),
        ({"uri": ["a", None], "label": ["x", "Doe"]}, "row 2 of .* has no `uri`"),
        ({"uri": ["a", "b"], "Doe": [1, 2]}, "counted from the left: 2"),
    ],
)
def test_parquet_that_cannot_be_read_is_told(tmp_path: Path, frame: dict[str, object], message: str) -> None:
    pd.DataFrame(frame).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message) as error:
        read_table(Location(url=str(tmp_path / "t.parquet")))
    assert "Doe" not in str(error.value)


@pytest.mark.parametrize("word", ["NA", "nan", "None", "Unknown", "-"])
def test_subjects_that_are_not_known_are_not_one_subject(tmp_path: Path, word: str) -> None:
    with pytest.raises(
        ValueError, match=r"the `subject` in 2 rows of .*, such as rows 1 and 3, is a word for an empty"
    ):
        read(tmp_path / "t.csv", f"uri,subject\na,{word}\nb,p2\nc,{word}\n")
    assert read(tmp_path / "t.csv", f"uri,subject\na,{word}\nb,p2\n")[0].subject == word
    assert [row.label for row in read(tmp_path / "t.csv", f"uri,label\na,{word}\nb,{word}\n")] == [word, word]


def test_an_index_of_pandas_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"uri": ["a", "b"], "id": ["x", "y"]})
    frame.set_index("id").to_parquet(tmp_path / "t.parquet")
    assert [row.id for row in read_table(Location(url=str(tmp_path / "t.parquet")))] == ["x", "y"]
    frame.set_index(pd.Index([5, 9])).to_parquet(tmp_path / "t.parquet")
    assert len(read_table(Location(url=str(tmp_path / "t.parquet")))) == 2


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["1.0", "", "0.0"], ["1", None, "0"]),
        (["1.0", "2.0", "0.0"], ["1.0", "2.0", "0.0"]),
        (["1.0", "", "0.5"], ["1.0", None, "0.5"]),
        (["1.0", "", "x"], ["1.0", None, "x"]),
        (["-12.0", "", ""], ["-12", None, None]),
    ],
    ids=str,
)
def test_whole_numbers_with_gaps_stay_whole_in_text(tmp_path: Path, written: list[str], expected: list[str]) -> None:
    rows = "".join(f"{number}.png,{text}\n" for number, text in enumerate(written))
    assert [row.label for row in read(tmp_path / "t.csv", "uri,label\n" + rows)] == expected


def test_what_pandas_makes_of_numbers_with_a_gap_is_read_as_the_numbers(tmp_path: Path) -> None:
    pd.DataFrame({"uri": ["a", "b", "c"], "label": [1, None, 0], "subject": [12, 12, None]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    rows = read_table(Location(url=str(tmp_path / "t.csv")))
    assert [(row.label, row.subject) for row in rows] == [("1", "12"), (None, "12"), ("0", None)]


@pytest.mark.parametrize(("dtype", "exact"), [("float16", 2**11), ("float32", 2**24), ("float64", 2**53)])
def test_numbers_that_a_type_does_not_tell_apart_are_refused(tmp_path: Path, dtype: str, exact: int) -> None:
    for number in (exact, 2 * exact):
        pd.DataFrame({"uri": ["a", "b"], "subject": pd.Series([number, 1], dtype=dtype)}).to_parquet(
            tmp_path / f"{number}.parquet"
        )
    assert read_table(Location(url=str(tmp_path / f"{exact}.parquet")))[0].subject == str(exact)
    with pytest.raises(ValueError, match=f"whole numbers above {exact} as fractions in the column `subject`"):
        read_table(Location(url=str(tmp_path / f"{2 * exact}.parquet")))
