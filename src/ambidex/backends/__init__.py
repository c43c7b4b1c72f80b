"""One folder a backend; each third-party driver is imported only inside its own, when it is first used."""
