"""The log: one line for each exchange, no secrets, and nobody waits for it."""

import json
import os
import threading
from typing import Any, Literal

import pytest

from keymux.core.records import AttemptRecord, ExchangeRow, Outcome
from keymux.core.vocabulary import Usage
from keymux.telemetry.logs import BACKLOG_LINES, Level, LineSink, Logs
from keymux.telemetry.redaction import Redactor

SECRET = "sk-ant-REDACTED"
ROW = ExchangeRow(
    id="req_1",
    at=1_700_000_000_123,
    caller="client_1",
    format="openai",
    operation="generate",
    asked="claude",
    model="claude-sonnet",
    stream=True,
    outcome=Outcome.OK,
    status=200,
    provider="acme",
    key="key_1",
    attempts=(
        AttemptRecord("acme", "m", "key_0", outcome="key_throttled", reason=f"429 {SECRET}"),
        AttemptRecord("acme", "m", "key_1", outcome="ok"),
    ),
    usage=Usage(input=3, output=4),
    cost_micros=1_500_000,
    took_ms=12,
)


class Pipe:
    """Collects what is written to a file descriptor."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def text(self) -> str:
        """Everything written, once writing is over."""
        os.close(self.writing)
        with os.fdopen(self.reading, "rb") as stream:
            return stream.read().decode()


@pytest.fixture
def pipe() -> Pipe:
    """A pipe of its own for each test."""
    return Pipe()


def _logged(
    pipe: Pipe, act: Any, *, level: Level = "info", style: Literal["json", "console"] = "json"
) -> str:
    sink = LineSink(pipe.writing)
    logs = Logs(sink, Redactor(), level, style)
    sink.start()
    act(logs)
    sink.stop()
    return pipe.text()


def test_an_exchange_is_one_line(pipe: Pipe) -> None:
    """The line says who asked for what, who served it, and how it went."""
    lines = _logged(pipe, lambda logs: logs.exchanges([ROW])).splitlines()
    line = json.loads(lines[0])

    assert len(lines) == 1
    assert line["timestamp"] == "2023-11-14T22:13:20.123+00:00"
    assert (line["event"], line["request_id"], line["caller"]) == ("exchange", "req_1", "client_1")
    assert (line["outcome"], line["status"], line["cost_usd"]) == ("ok", 200, 1.5)
    assert line["attempts"] == 2
    assert line["story"] == ["acme/key_0 via direct: key_throttled 429 ***"]


def test_an_exchange_can_be_read_by_people(pipe: Pipe) -> None:
    """On a console the same line is text."""
    text = _logged(pipe, lambda logs: logs.exchanges([ROW]), style="console")

    assert "exchange" in text
    assert "request_id=req_1" in text


def test_no_line_holds_a_secret(pipe: Pipe) -> None:
    """Every value passes the redactor."""
    text = _logged(pipe, lambda logs: logs.logger.error("defect", trace=f"key={SECRET}"))

    assert SECRET not in text
    assert json.loads(text)["trace"] == "key=***"


def test_the_level_counts_for_exchanges_too(pipe: Pipe) -> None:
    """At warning, the traffic is not logged."""

    def act(logs: Logs) -> None:
        logs.exchanges([ROW])
        logs.logger.info("quiet")
        logs.logger.warning("loud")

    lines = _logged(pipe, act, level="warning").splitlines()

    assert [json.loads(line)["event"] for line in lines] == ["loud"]


def test_a_reader_that_sleeps_stops_nobody(pipe: Pipe) -> None:
    """A full pipe costs lines, which are counted, and never time."""
    sink = LineSink(pipe.writing)
    sink.start()
    line = b"x" * 200 + b"\n"
    for _ in range(BACKLOG_LINES + 2000):
        sink.emit(line)
    stuck = threading.Thread(target=sink.stop)
    stuck.start()
    os.close(pipe.reading)
    stuck.join(5)
    os.close(pipe.writing)

    assert sink.dropped >= 1000
    assert not stuck.is_alive()


def test_a_closed_log_costs_lines_only(pipe: Pipe) -> None:
    """When nobody reads any more, lines are dropped and counted."""
    os.close(pipe.reading)
    sink = LineSink(pipe.writing)
    sink.start()
    sink.emit(b"lost\n")
    sink.stop()
    os.close(pipe.writing)

    assert sink.dropped == 1
