"""keymux: a self-hosted LLM gateway with pooled upstream keys.

Reading order: ``exchange/serve.py`` is one request from top to bottom; ``core`` holds the
rules it follows; ``app.py`` plugs the parts together.
"""

__version__ = "2026.11"
