"""The two implementations of the runtime protocol, and resources that belong to one process and one event loop.

Together with the leaf drivers, this is the only place that may import ``asyncio`` and ``threading``.
"""
