"""One module a framework; each imports its framework only when the module is imported."""
