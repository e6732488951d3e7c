"""Documents that others may have written: what cannot be understood is named and left out."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from keymux.stores.mongo.fields import Document, WrongField

T = TypeVar("T")
Read = Callable[[str, Document], T]


class Reader:
    """Turns documents into records, and tells of those that are none, each trouble once.

    Args:
        tell: told of a trouble, in a sentence without values.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def tell(self, text: str) -> None:
        """Tell of a trouble, unless it was told before."""
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def record(self, collection: str, read: Read[T], document: Document) -> T | None:
        """The record that a document stands for, or None."""
        try:
            return read(collection, document)
        except WrongField as error:
            self.tell(
                f"{collection}: the document {document['_id']!r} is left out: "
                f"its field {error.name} is missing or of the wrong type"
            )
            return None

    def records(self, collection: str, read: Read[T], documents: Iterable[Document]) -> list[T]:
        """The records that documents stand for."""
        found = (self.record(collection, read, document) for document in documents)
        return [record for record in found if record is not None]
