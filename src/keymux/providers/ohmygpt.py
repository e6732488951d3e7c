"""OhMyGPT: serves Claude models in both formats and has an error shape of its own.

``{"statusCode": 402, "message": "...", "errorType": "insufficient_balance_error"}`` appears beside
the shapes of the two original APIs; `keymux.wire.upstream_error` reads all three.
"""

from keymux.core.faults import KeySpent
from keymux.providers.base import BOTH_FORMATS, Provider
from keymux.providers.signs import sign

provider = Provider(
    name="ohmygpt",
    title="OhMyGPT",
    base_url="https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg",
    paths=BOTH_FORMATS,
    signs=(sign(KeySpent, "insufficient_balance_error"), sign(KeySpent, statuses=(402,))),
)
