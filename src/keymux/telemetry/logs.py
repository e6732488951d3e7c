"""Structured logs on standard error: one JSON object a line, or something to read.

Lines are handed to a thread of their own, so that a slow terminal or a blocked pipe stops nobody.
What does not fit into the backlog is dropped and counted.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec
import structlog
from msgspec import Struct
from structlog.typing import EventDict, Processor, WrappedLogger

from keymux.core.records import AttemptRecord, ExchangeRow
from keymux.telemetry.redaction import Redactor

BACKLOG_LINES = 20_000
_FLUSH_EVERY_S = 0.05
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Level = Literal["debug", "info", "warning", "error"]
_encode = msgspec.json.Encoder(enc_hook=str).encode


class LineSink:
    """Writes lines to a file descriptor from a thread.

    Args:
        file: descriptor, 2 for standard error.

    Attributes:
        dropped: lines that did not fit.
    """

    def __init__(self, file: int = 2) -> None:
        self._file = file
        self._lines: deque[bytes | Callable[[], bytes]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keymux-log", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def emit(self, line: bytes | Callable[[], bytes]) -> None:
        """Hand over a line, or something that makes it later; returns at once."""
        if len(self._lines) >= BACKLOG_LINES:
            self.dropped += 1
            return
        self._lines.append(line)

    def stop(self) -> None:
        """Write what is there and end; waits a second for a slow reader, not longer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._stop.wait(_FLUSH_EVERY_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), 500))]
            text = b"".join(line if isinstance(line, bytes) else line() for line in batch)
            while text:
                try:
                    text = text[os.write(self._file, text) :]
                except OSError:
                    self.dropped += len(batch)
                    return


class Logs:
    """The log of one process.

    Args:
        sink: where lines go.
        redactor: takes secrets out of every value.
        level: least level that is written.
        style: json or console.
    """

    def __init__(
        self, sink: LineSink, redactor: Redactor, level: Level, style: Literal["json", "console"]
    ) -> None:
        self._sink = sink
        self._redactor = redactor
        self._style = style
        self._render = _renderer(style)
        self._is_on = _LEVELS[level] <= _LEVELS["info"]
        self.logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
            _SinkLogger(sink),
            processors=[
                structlog.processors.add_log_level,
                _timestamp,
                self._redact,
                self._render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            cache_logger_on_first_use=True,
        )

    def _redact(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {name: self._redactor.value(value) for name, value in event.items()}

    def exchanges(self, rows: Sequence[ExchangeRow]) -> None:
        """One line for each settled exchange; they are put into words on the sink's thread."""
        if self._is_on:
            self._sink.emit(lambda: b"".join(self._line(row) for row in rows))

    def _line(self, row: ExchangeRow) -> bytes:
        redact = self._redactor.text
        line = ExchangeLine(
            _iso(row.at),
            "info",
            "exchange",
            row.id,
            row.caller,
            row.format,
            row.operation,
            row.model or redact(row.asked[:200]),
            row.stream,
            row.outcome,
            row.fault,
            row.status,
            row.provider,
            row.key,
            row.attempts[-1].egress if row.attempts else "",
            len(row.attempts),
            [redact(_told(attempt)) for attempt in row.attempts if attempt.outcome != "ok"],
            row.usage.input,
            row.usage.output,
            row.quality,
            None if row.cost_micros is None else row.cost_micros / 1_000_000,
            row.first_ms,
            row.took_ms,
        )
        if self._style == "json":
            return _encode(line) + b"\n"
        return _as_line(self._render(None, "info", msgspec.structs.asdict(line)))


class ExchangeLine(Struct):
    """The log line of an exchange, in the order it is written."""

    timestamp: str
    level: str
    event: str
    request_id: str
    caller: str
    format: str
    operation: str
    model: str
    stream: bool
    outcome: str
    fault: str
    status: int
    provider: str
    key: str
    egress: str
    attempts: int
    story: list[str]
    input_tokens: int
    output_tokens: int
    quality: str
    cost_usd: float | None
    first_ms: int
    took_ms: int


def _told(attempt: AttemptRecord) -> str:
    return (
        f"{attempt.provider}/{attempt.key} via {attempt.egress}: {attempt.outcome} {attempt.reason}"
    )


class _SinkLogger:
    """What structlog calls with a finished line."""

    def __init__(self, sink: LineSink) -> None:
        self._sink = sink

    def msg(self, rendered: str | bytes) -> None:
        self._sink.emit(_as_line(rendered))

    debug = info = warning = error = critical = exception = msg


def _as_line(rendered: Any) -> bytes:  # noqa: ANN401 -- text or bytes, as the renderer likes
    return (rendered if isinstance(rendered, bytes) else str(rendered).encode()) + b"\n"


def _renderer(style: Literal["json", "console"]) -> Processor:
    if style == "json":
        return lambda _logger, _name, event: _encode(event)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _timestamp(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    return event


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def _iso(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}+00:00"
