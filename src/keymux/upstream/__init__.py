"""The network out: ``transport`` holds one HTTP client per way out, ``asking`` makes one attempt."""
