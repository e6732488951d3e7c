"""A scripted upstream that speaks real bytes."""
