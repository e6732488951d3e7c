"""The built-in sandbox: speaks both formats for real, and whatever errors it is told to make."""

from keymux.providers.base import BOTH_FORMATS, Provider

provider = Provider(name="sandbox", title="Sandbox", paths=BOTH_FORMATS)
