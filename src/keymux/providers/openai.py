"""Any service that speaks OpenAI Chat Completions; the config gives its address."""

from types import MappingProxyType

from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers.base import Provider

provider = Provider(
    name="openai",
    title="OpenAI-compatible",
    base_url="https://api.openai.com",
    paths=MappingProxyType({(WireFormat.OPENAI, Operation.GENERATE): "/v1/chat/completions"}),
    request_id_headers=("x-request-id",),
)
