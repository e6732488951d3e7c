"""The network out: ``transport`` holds an HTTP client per way out, ``asking`` makes one attempt."""
