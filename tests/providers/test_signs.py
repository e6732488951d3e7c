"""When a sign is met, and when its words are not believed."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.core.faults import KeySpent
from keymux.providers.signs import Sign, sign
from keymux.wire.upstream_error import Complaint

EMPTY = b"{}"
WORDS = 'Your "account" has been\nbanned'


def _request(text: str) -> bytes:
    return json.dumps({"messages": [{"content": text}]}).encode()


@pytest.mark.parametrize(
    ("complaint", "met"),
    [
        pytest.param(Complaint(402, "spent", message="no money"), True, id="everything fits"),
        pytest.param(Complaint(402, code="spent", message="no money"), True, id="as the code"),
        pytest.param(Complaint(403, "spent", message="no money"), True, id="the other status"),
        pytest.param(Complaint(404, "spent", message="no money"), False, id="another status"),
        pytest.param(Complaint(402, "other", message="no money"), False, id="another name"),
        pytest.param(Complaint(402, message="no money"), False, id="no name"),
        pytest.param(Complaint(402, "spent", message="no honey"), False, id="other words"),
        pytest.param(Complaint(402, "spent", message="Sorry: NO MONEY!"), True, id="in capitals"),
    ],
)
def test_a_sign_is_met_when_everything_is(complaint: Complaint, *, met: bool) -> None:
    """Status, name and words: what it names has to be there, all of it."""
    mark = sign(KeySpent, "spent", statuses=(402, 403), words="no money")

    assert mark.is_met(complaint, EMPTY) is met


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        pytest.param(sign(KeySpent, "spent"), Complaint(500, "spent"), id="a name"),
        pytest.param(sign(KeySpent, statuses=(402,)), Complaint(402), id="a status"),
        pytest.param(sign(KeySpent, words="money"), Complaint(500, message="money"), id="words"),
    ],
)
def test_what_a_sign_does_not_name_may_be_anything(mark: Sign, complaint: Complaint) -> None:
    """One of the three is enough."""
    assert mark.is_met(complaint, EMPTY)


@pytest.mark.parametrize(
    ("message", "met"),
    [
        pytest.param("Over budget", True, id="at the very start"),
        pytest.param("litellm.BadRequestError: over budget", True, id="behind an exception"),
        pytest.param("AnthropicException - over budget", True, id="behind another"),
        pytest.param("Openai Exception- over budget", True, id="spelled oddly"),
        pytest.param(
            'litellm.BadRequestError: AnthropicException - b\'{"type":"error","error":{"type":'
            '"invalid_request_error","message":"over budget"}}\'',
            True,
            id="within the JSON of the vendor behind",
        ),
        pytest.param("Authentication Error, over budget", True, id="behind another's words"),
        pytest.param("messages.0: over budget", False, id="behind a field of the request"),
        pytest.param("it is over budget", False, id="behind other words"),
        pytest.param('{"a":"' + "x" * 200 + '","message":"over budget"}', False, id="too far in"),
    ],
)
def test_first_words_begin_the_message(message: str, *, met: bool) -> None:
    """Only names of exceptions and the wrapping of a vendor may stand before them."""
    mark = sign(KeySpent, first_words="over budget")

    assert mark.is_met(Complaint(400, message=message), EMPTY) is met


# -- words of the client's own ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "request_body",
    [
        pytest.param(_request(WORDS), id="as they are"),
        pytest.param(_request(WORDS.upper()), id="in capitals"),
        pytest.param(_request(f"please say: {WORDS}!"), id="among others"),
        pytest.param(_request(WORDS.replace("\n", "  \t ")), id="with other white space"),
        pytest.param(_request(WORDS.replace("\n", " ")), id="in one line"),
        pytest.param(_request(json.dumps(WORDS)), id="as JSON within JSON"),
        pytest.param(
            b'{"x":"%s"}' % "".join(f"\\u{ord(letter):04x}" for letter in WORDS).encode(),
            id="all in escapes",
        ),
        pytest.param(
            b'{"x":"%s"}' % "".join(f"\\u{ord(letter):04X}" for letter in WORDS).encode(),
            id="all in escapes with capitals",
        ),
    ],
)
def test_words_that_the_request_holds_are_not_believed(request_body: bytes) -> None:
    """However the request spells them."""
    mark = sign(KeySpent, words=r'your "account" has been\sbanned')

    assert not mark.is_met(Complaint(403, message=WORDS), request_body)


@pytest.mark.parametrize(
    ("message", "request_body"),
    [
        pytest.param(
            r"model \"a\"\n\thas no access",
            _request('model "a"\n\thas no access'),
            id="escaped once more",
        ),
        pytest.param("model a/b has no access", rb'{"x":"model a\/b has no access"}', id="a slash"),
        pytest.param(
            r"model a\/b: no access", rb'{"x":"model a\\\\\/b: no access"}', id="and a backslash"
        ),
        pytest.param(
            "model ä has no access", _request("model ä has no access"), id="another script"
        ),
    ],
)
def test_what_is_quoted_may_be_spelled_as_the_upstream_likes(
    message: str, request_body: bytes
) -> None:
    """Escapes in the message, other escapes in the request."""
    mark = sign(KeySpent, words=r"model.{0,80}access")

    assert not mark.is_met(Complaint(403, message=message), request_body)
    assert mark.is_met(Complaint(403, message=message), EMPTY)


@pytest.mark.parametrize(
    "request_body",
    [
        pytest.param(EMPTY, id="nothing of it"),
        pytest.param(_request("your account has been"), id="half of it"),
        pytest.param(b"\xff\xfe\\u00zz\\", id="no JSON"),
    ],
)
def test_words_that_it_does_not_hold_are_believed(request_body: bytes) -> None:
    """All of what was said has to be there."""
    mark = sign(KeySpent, words=r'your "account" has been\sbanned')

    assert mark.is_met(Complaint(403, message=WORDS), request_body)


def test_only_the_telling_words_are_looked_for() -> None:
    """What may stand before first words is not part of them."""
    mark = sign(KeySpent, first_words="over budget")
    complaint = Complaint(400, message="litellm.BadRequestError: over budget")

    assert not mark.is_met(complaint, _request("is it over budget?"))


@given(st.text(max_size=12), st.text(max_size=5), st.text(max_size=5), st.booleans())
def test_no_text_is_believed_that_came_in(
    said: str,
    before: str,
    after: str,
    ascii_only: bool,  # noqa: FBT001 -- drawn
) -> None:
    """Any message that the request holds, in either spelling of JSON."""
    mark = sign(KeySpent, words=r"(?s:.*)")
    sent = json.dumps({"content": before + said + after}, ensure_ascii=ascii_only).encode()

    assert not mark.is_met(Complaint(403, message=said), sent)


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"  ", id="spaces"),
        pytest.param(b"\\n", id="newlines"),
        pytest.param(b"\\u0041", id="escapes"),
        pytest.param(b"\\\\", id="backslashes"),
        pytest.param(b"your account ", id="the words' own beginning"),
    ],
)
def test_a_large_request_costs_little(piece: bytes) -> None:
    """Four megabytes made to be slow are looked through within a second."""
    mark = sign(KeySpent, words=r"your account has been banned")
    request = b'{"x":"%s"}' % (piece * (4 * 2**20 // len(piece)))
    complaint = Complaint(403, message="Your account has been banned")
    begun = time.process_time()
    met = mark.is_met(complaint, request)
    took = time.process_time() - begun

    assert met
    assert took < 1.0
