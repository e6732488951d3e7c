"""Errors of the driver and the server, told in our words.

What the server says is not passed on: it quotes documents, and there are secrets in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidName,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from keymux.stores.mongo.fields import WrongField
from keymux.stores.port import StoreUnavailable, StoreUnusable

AGAIN = "TransientTransactionError"
"""A transaction that carries this label has changed nothing and may be tried again."""
UNKNOWN_COMMIT = "UnknownTransactionCommitResult"
"""A commit that carries this label may be asked for again."""
BAD_ADDRESS = (
    "no address that can be used: look at the options, "
    "and write special letters in user and password as %XX"
)
_DUPLICATE = 11_000

_NEVER = {
    13: "the user has no right to do that: keymux needs to read and write the database",
    18: "wrong user or password",
    11: "no such user",
    8000: "wrong user or password",
    166: "one of the collections is a view",
    121: "a rule of validation on one of the collections refuses documents of keymux",
}
"""Codes of the server that mean: like this it can never work."""

_PASSING = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        24,  # LockTimeout
        64,  # WriteConcernFailed
        79,  # UnknownReplWriteConcern
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        100,  # UnsatisfiableWriteConcern
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        251,  # NoSuchTransaction
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10_107,  # NotWritablePrimary
        11_600,  # InterruptedAtShutdown
        11_601,  # Interrupted
        11_602,  # InterruptedDueToReplStateChange
        13_435,  # NotPrimaryNoSecondaryOk
        13_436,  # NotPrimaryOrSecondary
        14_031,  # OutOfDiskSpace
        17_280,  # KeyTooLong while an index is built
    }
)
"""Codes of the server that mean: later it may work."""


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what the driver raises into what the port promises.

    Args:
        where: the database, without credentials.

    Raises:
        StoreUnavailable: it cannot be reached or written now.
        StoreUnusable: it can never work like this.
    """
    try:
        yield
    except (InvalidURI, ConfigurationError, InvalidName):  # their words may quote the password
        raise StoreUnusable(f"{where}: {BAD_ADDRESS}") from None
    except PyMongoError as error:
        kind = StoreUnavailable if _is_passing(error) else StoreUnusable
        raise kind(f"{where}: {_words(error)}") from None
    except WrongField as error:
        raise StoreUnusable(f"{where}: the field {error.name} of a document is not ours") from None
    except (BSONError, OverflowError, UnicodeError) as error:
        raise StoreUnusable(f"{where}: {type(error).__name__}: not what we wrote") from None


def _is_passing(error: PyMongoError) -> bool:
    if isinstance(error, ConnectionFailure | ExecutionTimeout | WriteConcernError):
        return True
    if isinstance(error, OperationFailure):
        return _codes(error) <= _PASSING or error.has_error_label(AGAIN)
    return error.timeout


def _codes(error: OperationFailure) -> set[int]:
    """The server's code, or those of all that went wrong with a list of writes."""
    if not isinstance(error, BulkWriteError):
        return {error.code or 0}
    wrong = [*error.details["writeErrors"], *error.details["writeConcernErrors"]]
    return {one["code"] for one in wrong} or {0}


def _words(error: PyMongoError) -> str:
    if isinstance(error, ServerSelectionTimeoutError):
        return f"no server answers: {_brief(error)}"
    if isinstance(error, NetworkTimeout):
        return "the server takes too long to answer"
    if isinstance(error, NotPrimaryError):
        return "the server is not the primary now"
    if isinstance(error, ConnectionFailure):
        return f"the connection is lost: {_brief(error)}"
    if isinstance(error, OperationFailure):
        code = min(_codes(error))
        named = (error.details or {}).get("codeName") or f"error {code}"
        return _NEVER.get(code, f"the server answers {named}")
    return f"{type(error).__name__}"


def _brief(error: PyMongoError) -> str:
    """The first of what can be many lines about the same thing."""
    return str(error).split(" (configured", 1)[0].split(", Timeout:", 1)[0].split(",", 1)[0]


def is_duplicate(error: PyMongoError) -> bool:
    """Whether all that went wrong is that documents are there already."""
    if isinstance(error, BulkWriteError):
        return _codes(error) == {_DUPLICATE}
    return isinstance(error, DuplicateKeyError)
