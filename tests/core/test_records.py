"""What is remembered, and what must not be printed of it."""

import pytest

from keymux.core.records import BackupKeyRecord, KeyRecord

SECRET = "sk-secret-0123456789"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(KeyRecord("k1", SECRET), "<KeyRecord k1>", id="an upstream key"),
        pytest.param(BackupKeyRecord("b1", SECRET), "<BackupKeyRecord b1>", id="a backup key"),
    ],
)
def test_a_record_with_a_secret_is_printed_without_it(record: object, expected: str) -> None:
    """A record in a traceback or a log line gives nothing away."""
    assert f"{record} {record!r} {[record]}" == f"{expected} {expected} [{expected}]"
