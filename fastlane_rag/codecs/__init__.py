"""How token rows become bytes."""
