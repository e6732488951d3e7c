"""OpenHands: a LiteLLM proxy that serves Claude models in both formats."""

from keymux.core.faults import KeyRevoked, KeySpent, KeyThrottled, Unavailable
from keymux.providers.base import BOTH_FORMATS, Provider
from keymux.providers.signs import sign

provider = Provider(
    name="openhands",
    title="OpenHands",
    base_url="https://llm-proxy.app.all-hands.dev",
    paths=BOTH_FORMATS,
    signs=(
        # LiteLLM names its exception type: a spent key is 400 in older versions, 429 in newer
        # ones, both with this type (litellm exceptions.py, read 2026-11).
        sign(KeySpent, "budget_exceeded"),
        sign(KeyRevoked, statuses=(401, 403), first_words=r"key is blocked"),
        # Its own key with the vendor behind it was refused: that says nothing about ours.
        sign(Unavailable, statuses=(401, 403), words=r"\Alitellm\.(?:Authentication|Permission)"),
        # Its router says 429 when all of its own deployments cool down.
        sign(KeyThrottled, statuses=(429,), words=r"no deployments available"),
    ),
)
