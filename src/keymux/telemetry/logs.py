"""Structured logs on standard error: one JSON object a line, or something to read.

Lines are handed to a thread of their own, so that a slow terminal or a blocked pipe stops nobody.
What does not fit into the backlog is dropped and counted.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from keymux.core.records import ExchangeRow
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

    def exchange(self, row: ExchangeRow) -> None:
        """The one line of a settled exchange; it is put into words on the sink's thread."""
        if self._is_on:
            self._sink.emit(lambda: self._line(row))

    def _line(self, row: ExchangeRow) -> bytes:
        event: EventDict = {
            "timestamp": _iso(row.at),
            "level": "info",
            "event": "exchange",
            "request_id": row.id,
            "caller": row.caller,
            "format": row.format,
            "operation": row.operation,
            "model": row.model or self._redactor.text(row.asked[:200]),
            "stream": row.stream,
            "outcome": row.outcome,
            "fault": row.fault,
            "status": row.status,
            "provider": row.provider,
            "key": row.key,
            "attempts": len(row.attempts),
            "story": [self._redactor.text(_told(attempt)) for attempt in row.attempts[:-1]],
            "input_tokens": row.usage.input,
            "output_tokens": row.usage.output,
            "quality": row.quality,
            "cost_usd": None if row.cost_micros is None else row.cost_micros / 1_000_000,
            "first_ms": row.first_ms,
            "took_ms": row.took_ms,
        }
        rendered = self._render(None, "info", event)
        return _as_line(rendered)


def _told(attempt: Any) -> str:  # noqa: ANN401 -- an AttemptRecord
    return f"{attempt.provider}/{attempt.key} via {attempt.egress}: {attempt.outcome} {attempt.reason}"


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


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
