"""The kinds of server by name, for `fixtures` and for `python -m tests.services`.

Where an environment variable names an existing server, that one is used and nothing is started.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from tests.services import postgres, redis, s3
from tests.services.cluster import RedisCluster
from tests.services.handle import External, Flavour, Service
from tests.services.pgbouncer import PgBouncerServer
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from tests.services.s3 import S3Server, SignedS3Server
from tests.services.sentinel import RedisSentinel


@dataclass(frozen=True)
class Kind:
    """One kind of service: what points at an existing one, why it cannot run, how to make it."""

    name: str
    variable: str
    own_flavours: tuple[Flavour, ...]
    _unavailable: Callable[[Flavour], str | None]
    _create: Callable[[Flavour], Service]

    @property
    def flavours(self) -> tuple[Flavour, ...]:
        """The flavours to run the suite on."""
        return ("external",) if os.environ.get(self.variable) else self.own_flavours

    def unavailable(self, flavour: Flavour) -> str | None:
        """Why this flavour cannot run here, or None."""
        return None if flavour == "external" else self._unavailable(flavour)

    def create(self, flavour: Flavour) -> Service:
        """A service of this kind, not yet started."""
        if flavour == "external":
            return External(self.name, os.environ[self.variable])
        return self._create(flavour)


_BOTH: tuple[Flavour, ...] = ("wheel", "system")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("postgres", "AMBIDEX_TEST_POSTGRES_URL", _BOTH, postgres.unavailable, PostgresServer),
        Kind("redis", "AMBIDEX_TEST_REDIS_URL", _BOTH, redis.unavailable, RedisServer),
        Kind("cluster", "AMBIDEX_TEST_CLUSTER_URL", _BOTH, redis.unavailable, RedisCluster),
        Kind("sentinel", "AMBIDEX_TEST_SENTINEL_URL", _BOTH, redis.unavailable, RedisSentinel),
        Kind(
            "pgbouncer",
            "AMBIDEX_TEST_PGBOUNCER_URL",
            ("system",),
            lambda _: PgBouncerServer().unavailable(),
            lambda _: PgBouncerServer(),
        ),
        Kind("s3", "AMBIDEX_TEST_S3_URL", ("wheel",), lambda _: s3.unavailable(), lambda _: S3Server()),
        Kind(
            "s3-signed",
            "AMBIDEX_TEST_SIGNED_S3_URL",
            ("wheel",),
            lambda _: s3.signed_unavailable(),
            lambda _: SignedS3Server(),
        ),
    )
}
