"""Any service that speaks Anthropic Messages; the config gives its address."""

from types import MappingProxyType

from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers.base import Headers, Provider


def _api_key_header(secret: str, wire_format: WireFormat) -> Headers:  # noqa: ARG001 -- one format
    return (("x-api-key", secret),)


provider = Provider(
    name="anthropic",
    title="Anthropic-compatible",
    base_url="https://api.anthropic.com",
    paths=MappingProxyType(
        {
            (WireFormat.ANTHROPIC, Operation.GENERATE): "/v1/messages",
            (WireFormat.ANTHROPIC, Operation.COUNT_TOKENS): "/v1/messages/count_tokens",
        }
    ),
    sign=_api_key_header,
    request_id_headers=("request-id",),
)
