"""OpenHands: a LiteLLM proxy that serves Claude models in both formats."""

from keymux.core.faults import KeyRevoked, KeySpent, KeyThrottled
from keymux.providers.base import BOTH_FORMATS, Provider, sign

provider = Provider(
    name="openhands",
    title="OpenHands",
    base_url="https://llm-proxy.app.all-hands.dev",
    paths=BOTH_FORMATS,
    signs=(
        # LiteLLM names its exception type: a spent key is 400 in older versions, 429 in newer
        # ones, both with this type (litellm exceptions.py, read 2026-11).
        sign(KeySpent, "budget_exceeded"),
        sign(KeyRevoked, words=r"key is blocked"),
        # Its router says 429 when all of its own deployments cool down.
        sign(KeyThrottled, words=r"no deployments available"),
    ),
)
