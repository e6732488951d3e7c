"""`keymux usage`."""

import csv
import io
from typing import Any

import pytest

from keymux.cli.moments import now_ms, read_moment
from keymux.core.records import ClientKeyRecord, ExchangeRow, Outcome
from keymux.core.vocabulary import Usage
from keymux.ids import first_id_at
from keymux.stores.port import Batch
from tests.cli.program import ACTOR, MODEL, Program, id_of

KEY = id_of("sk-one-0123456789")
DAY = 86_400_000


def at(text: str) -> int:
    """A moment in milliseconds."""
    return read_moment(text, 0)


def exchange(moment: int, **fields: Any) -> ExchangeRow:
    """One exchange of a certain moment."""
    plain: dict[str, Any] = {
        "id": f"{first_id_at(moment)}{fields.pop('number', 0):016x}",
        "at": moment,
        "caller": "client_1",
        "format": "openai",
        "operation": "generate",
        "asked": MODEL,
        "model": MODEL,
        "stream": False,
        "outcome": Outcome.OK,
        "provider": "alpha",
        "key": KEY,
        "usage": Usage(input=10, output=20, cache_read=3, cache_write_5m=4, cache_write_1h=5),
        "cost_micros": 1_500_000,
    }
    return ExchangeRow(**{**plain, **fields})


ROWS = (
    exchange(at("2026-10-31T23:59:59")),
    exchange(at("2026-11-01T00:00")),
    exchange(at("2026-11-01T12:00"), provider="beta", cost_micros=1),
    exchange(at("2026-11-02T00:00"), outcome=Outcome.FAILED, cost_micros=None, usage=Usage()),
    exchange(at("2026-11-02T10:00"), model="free-model", cost_micros=None, caller="client_2"),
)


def fill(keymux: Program, *rows: ExchangeRow) -> None:
    """Put exchanges into the ledger."""
    keymux.store(lambda store: store.ledger.write(Batch(rows=rows)))


def test_usage_is_added_up_by_day(keymux: Program) -> None:
    """A row a day, in UTC, with every class of tokens, cost, and what has no cost."""
    fill(keymux, *ROWS)

    rows = keymux.good("usage", "--since", "2026-11-01").rows

    assert rows == [
        {
            "day": "2026-11-01",
            "exchanges": "2",
            "failed": "0",
            "inputTokens": "20",
            "outputTokens": "40",
            "cacheReadTokens": "6",
            "cacheWriteTokens": "18",
            "costUsd": "1.500001",
            "unpriced": "0",
        },
        {
            "day": "2026-11-02",
            "exchanges": "2",
            "failed": "1",
            "inputTokens": "10",
            "outputTokens": "20",
            "cacheReadTokens": "3",
            "cacheWriteTokens": "9",
            "costUsd": "0.000000",
            "unpriced": "2",
        },
    ]


def test_the_total_stands_beside_the_rows(keymux: Program) -> None:
    """In a pipe it goes to standard error, so that rows stay rows."""
    fill(keymux, *ROWS)

    done = keymux.good("usage", "--since", "2026-11-01")

    assert done.err == (
        "keymux: total: 4 exchanges, 1 failed; $1.500001, 2 of unknown cost\n"
        "keymux: tokens: 30 input, 60 output, 9 from cache, 27 to cache\n"
    )


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        pytest.param("model", [(MODEL,), ("free-model",)], id="by model"),
        pytest.param("provider", [("alpha",), ("beta",)], id="by provider"),
        pytest.param("key", [(KEY,)], id="by key"),
        pytest.param("caller", [("client_1",), ("client_2",)], id="by caller"),
        pytest.param(
            "provider,day",
            [("alpha", "2026-11-01"), ("alpha", "2026-11-02"), ("beta", "2026-11-01")],
            id="by several, in their order",
        ),
        pytest.param(" model , model", [(MODEL,), ("free-model",)], id="with blanks and twice"),
    ],
)
def test_usage_is_added_up_by_anything(
    keymux: Program, by: str, expected: list[tuple[str, ...]]
) -> None:
    """--by names the columns that make a row."""
    fill(keymux, *ROWS)

    rows = keymux.good("usage", "--since", "2026-11-01", "--by", by).rows

    names = list(dict.fromkeys(name.strip() for name in by.split(",")))
    assert [tuple(row[name] for name in names) for row in rows] == expected


def test_callers_have_their_label(keymux: Program) -> None:
    """Whose key it is stands beside the id."""
    record = ClientKeyRecord(id="client_1", key_hash="0", shown="km-...abcd", label="laptop")
    keymux.store(lambda store: store.clients.add(record, ACTOR))
    fill(keymux, *ROWS)

    rows = keymux.good("usage", "--since", "2026-11-01", "--by", "caller").rows

    assert [row["callerLabel"] for row in rows] == ["laptop", ""]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(["--since", "2026-10-01"], 5, id="everything"),
        pytest.param(["--since", "2026-11-01"], 4, id="the first moment is included"),
        pytest.param(
            ["--since", "2026-10-01", "--until", "2026-11-02"], 3, id="the last one is not"
        ),
        pytest.param(
            ["--since", "2026-11-01T12:00", "--until", "2026-11-01T12:01"], 1, id="one minute"
        ),
    ],
)
def test_a_span_of_time_is_chosen(keymux: Program, options: list[str], expected: int) -> None:
    """--since is included, --until is not."""
    fill(keymux, *ROWS)

    total = keymux.good("usage", *options, "--json").json["total"]

    assert total["exchanges"] == expected


def test_a_week_is_shown_when_nothing_is_said(keymux: Program) -> None:
    """Without --since the last seven days are added up."""
    now = now_ms()
    fill(keymux, exchange(now - 6 * DAY), exchange(now - 8 * DAY))

    assert keymux.good("usage", "--json").json["total"]["exchanges"] == 1


def test_programs_read_usage_as_json(keymux: Program) -> None:
    """--json has the span, the lines and the total; money is exact."""
    fill(keymux, *ROWS)

    found = keymux.good(
        *("usage", "--since", "2026-11-01", "--until", "2026-11-02", "--by", "provider", "--json")
    ).json

    assert (found["since"], found["until"]) == ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z")
    assert [(line["provider"], line["costMicros"]) for line in found["lines"]] == [
        ("alpha", 1_500_000),
        ("beta", 1),
    ]
    assert (found["total"]["costUsd"], found["total"]["costMicros"]) == ("1.500001", 1_500_001)


def test_a_spreadsheet_reads_usage_as_csv(keymux: Program) -> None:
    """--csv has a header and a line for each row, and nothing else."""
    fill(keymux, *ROWS)

    done = keymux.good("usage", "--since", "2026-11-01", "--by", "model", "--csv")

    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [(row["model"], row["exchanges"], row["costUsd"]) for row in rows] == [
        (MODEL, "3", "1.500001"),
        ("free-model", "1", "0.000000"),
    ]
    assert done.err == ""


def test_a_table_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns counts are brief, nothing is cut off, and the total stands below."""
    row = exchange(at("2026-11-01"), usage=Usage(input=123_456_789), cost_micros=370_370_367)
    fill(keymux, row)

    lines = keymux.screen("usage", "--since", "2026-11-01", "--by", "day,model")

    assert max(map(len, lines)) <= 80
    assert any("2026-11-01" in line and "123M" in line and "370.37" in line for line in lines)
    assert "total: 1 exchanges, 0 failed; $370.370367, 0 of unknown cost" in lines


def test_a_table_marks_what_has_no_cost(keymux: Program) -> None:
    """Below a cost stands how many exchanges are not in it."""
    fill(keymux, *ROWS)

    lines = keymux.screen("usage", "--since", "2026-11-01", "--by", "model")

    assert sum("1 unknown" in line for line in lines) == 2


def test_nothing_in_that_time_is_said(keymux: Program) -> None:
    """A person is told that there is nothing."""
    keymux.good("init-db")

    assert "no exchanges in that time" in keymux.screen("usage")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param(["--by", "hour"], "cannot add up by 'hour'; use day, model", id="by what"),
        pytest.param(["--by", ""], "cannot add up by ''", id="by nothing"),
        pytest.param(["--since", "soon"], "--since: 'soon' is no time", id="since when"),
        pytest.param(["--until", "soon"], "--until: 'soon' is no time", id="until when"),
        pytest.param(
            ["--since", "2026-11-02", "--until", "2026-11-02"], "not after --since", id="no time"
        ),
        pytest.param(["--csv", "--json"], "not both", id="two formats"),
    ],
)
def test_a_wrong_question_is_explained(keymux: Program, options: list[str], why: str) -> None:
    """What was wrong with the command line is said before the store is touched."""
    done = keymux.run("usage", *options)

    assert done.code == 2
    assert why in done.err
