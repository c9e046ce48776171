"""Measures captions against references and hazard labels; nothing that serves imports it."""
