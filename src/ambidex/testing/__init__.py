"""The conformance suite that every backend passes, for the authors of backends."""
