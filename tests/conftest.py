"""What every test may use: private servers, started when a test first asks for one.

Tests of words find by words alone, whatever is installed; a test of vectors chooses its embedder.
"""

import os

os.environ.setdefault("AMBIDEX_EMBEDDER", "none")

from hypothesis import settings

pytest_plugins = ["tests.services.fixtures"]

# A time limit for each example would fail on a busy machine, and a time is never a test.
settings.register_profile("ambidex", deadline=None)
settings.register_profile("ambidex-ci", settings.get_profile("ci"), deadline=None)
settings.load_profile("ambidex-ci" if settings.get_current_profile_name() == "ci" else "ambidex")
