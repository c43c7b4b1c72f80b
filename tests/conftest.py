"""What every test may use: private servers, started when a test first asks for one.

Tests of words find by words alone, whatever is installed; a test of vectors chooses its embedder.
"""

import os

os.environ.setdefault("AMBIDEX_EMBEDDER", "none")

pytest_plugins = ["tests.services.fixtures"]
