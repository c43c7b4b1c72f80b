"""Private servers for tests and for people: started here, on loopback, and stopped by pid.

Everything a server owns (process tree, port, temporary directory) belongs to one handle and ends
with it: on `stop()`, at interpreter exit, and, through the keeper, when this process is killed.

    from tests.services import PostgresServer, Proxy, RedisServer

    with RedisServer(options=RedisOptions(appendonly=True, appendfsync="always")) as server:
        with Proxy(server.url) as proxy:
            ...                       # talk to proxy.url; proxy.lose_replies(match=b"INCRBY")
        server.kill()                 # kill -9
        server.start()                # same port, same data

Map: `handle` what every server can do; `postgres`, `redis`, `cluster`, `sentinel`, `pgbouncer`,
`s3` the kinds; `proxy` network faults; `certificates` TLS; `catalogue` kinds by name and the environment
variables that point the suite at existing servers; `fixtures` for pytest; `python -m
tests.services` for people. `accounts`, `keeper`, `ports` and `resp` are what they stand on.

Two flavours: `wheel` comes with pip alone, `system` is what the machine has installed.
`unavailable(flavour)` in each kind's module says why it cannot run, or None.
"""

from tests.services.certificates import Certificates
from tests.services.cluster import RedisCluster
from tests.services.handle import External, Flavour, Server, Service, StartFailed
from tests.services.pgbouncer import PgBouncerServer
from tests.services.postgres import PostgresServer
from tests.services.proxy import Proxy
from tests.services.redis import RedisOptions, RedisServer
from tests.services.s3 import S3Server, SignedS3Server
from tests.services.sentinel import RedisSentinel

__all__ = [
    "Certificates",
    "External",
    "Flavour",
    "PgBouncerServer",
    "PostgresServer",
    "Proxy",
    "RedisCluster",
    "RedisOptions",
    "RedisSentinel",
    "RedisServer",
    "S3Server",
    "Server",
    "Service",
    "SignedS3Server",
    "StartFailed",
]
