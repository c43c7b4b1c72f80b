"""What may stand between a store and a port: retries, breakers and their like; ``ambidex.storage`` puts them there.

The invariant: a policy knows ports, errors and the runtime, and no backend.
"""
