"""Loaded by pytest through its entry point."""
