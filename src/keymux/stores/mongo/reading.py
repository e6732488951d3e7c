"""Documents that others may have written: what cannot be understood is named and left out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from keymux.stores.mongo.fields import Document, WrongField, name_of
from keymux.stores.sealing.port import SHARED
from keymux.stores.sealing.vault import CannotOpen, Place, Vault, is_sealed

T = TypeVar("T")
Read = Callable[[str, Document], T]


class Reader:
    """Turns documents into records, and tells of those that are none, each trouble once.

    Args:
        tell: told of a trouble, in a sentence without values.
        vault: that opens the secrets in documents.
    """

    def __init__(self, tell: Callable[[str], None], vault: Vault) -> None:
        self._tell = tell
        self._vault = vault
        self._told: set[str] = set()

    def tell(self, text: str) -> None:
        """Tell of a trouble, unless it was told before."""
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def record(self, collection: str, read: Read[T], document: Document) -> T | None:
        """The record that a document stands for, or None."""
        try:
            return read(collection, opened(self._vault, collection, document))
        except CannotOpen as error:
            self.tell(str(error))
            return None
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

    def resealed(self, collection: str, document: Document) -> dict[str, str]:
        """The field with a secret that is not sealed yet, as it should be written now."""
        place, stored = _secret(collection, document)
        after = self._vault.resealed(place, stored)
        return {} if after == stored else {place.field: after}


def opened(vault: Vault, collection: str, document: Document) -> Document:
    """A document with its secret in the clear.

    Raises:
        CannotOpen: it is sealed, and cannot be opened.
    """
    place, stored = _secret(collection, document)
    if not is_sealed(stored):
        return document
    return {**document, place.field: vault.open(place, stored)}


def sealed(vault: Vault, collection: str, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Documents with their secrets as they are to be stored."""
    found = []
    for document in documents:
        place, secret = _secret(collection, document)
        found.append({**document, place.field: vault.seal(place, secret)})
    return found


def _secret(collection: str, document: Document) -> tuple[Place, str]:
    """Where the secret of a document stands, and what stands there; empty if it is no text."""
    field = SHARED.get(collection, "apiKey")
    stored = document.get(field)
    text = stored if isinstance(stored, str) else ""
    return Place(collection, _id(document), field), text


def _id(document: Document) -> str:
    try:
        return name_of(document)
    except WrongField:
        return str(document["_id"])
