"""What every test may use: private servers, started when a test first asks for one."""

pytest_plugins = ["tests.services.fixtures"]
