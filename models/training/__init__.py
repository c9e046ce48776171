"""Training and evaluation; nothing that serves imports this package."""
