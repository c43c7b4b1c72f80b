"""What is particular to object stores: presigned URLs, parts, servers that are down, frozen or refuse, forks, exits."""

import asyncio
import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ambidex import UnifiedStorage, deadline, errors
from tests.services import S3Server, Service

MEBI = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """One that is frozen, killed and looked into."""
    with S3Server() as server:
        yield server


def in_both_modes(storage: UnifiedStorage, call: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield the call as made in blocking mode, and then as awaited on a loop."""
    yield lambda: call(storage.sync)

    async def awaited() -> Any:
        return await call(storage.aio)

    yield lambda: asyncio.run(awaited())


def open_at(server: Service, **how: Any) -> UnifiedStorage:
    return UnifiedStorage("memory://", blobs=server.url, **how)


def unfinished(server: S3Server) -> int:
    with urllib.request.urlopen(f"{server.endpoint}/media?uploads") as answer:
        return int(answer.read().count(b"<UploadId>"))


def test_presigned_urls_are_fetched_over_plain_http(s3_server: Service) -> None:
    storage = open_at(s3_server)
    url = storage.sync.media.store(b"for everybody", "a ü.txt", "text/plain; charset=utf-8")
    for sign in in_both_modes(storage, lambda face: face.media.presign(url, 60)):
        with urllib.request.urlopen(sign()) as answer:
            assert answer.read() == b"for everybody"
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "X-Amz-Expires=90&" in storage.sync.media.presign(url, 90)
    for expires in (0, -1, 8 * 24 * 3600, True, "60"):
        with pytest.raises(errors.InvalidQuery):
            storage.sync.media.presign(url, expires)  # type: ignore[arg-type]  # that is the point
    storage.sync.media.delete(url)
    with pytest.raises(errors.NotFound):
        storage.sync.media.presign(url)


def test_a_large_blob_is_written_in_parts(server: S3Server) -> None:
    storage = open_at(server)
    url = storage.sync.media.store([bytes([number]) * MEBI for number in range(20)], "large")
    content = storage.sync.media.info(url)
    assert content is not None
    assert content.size == 20 * MEBI
    with urllib.request.urlopen(storage.sync.media.presign(url)) as answer:
        assert answer.headers["ETag"].strip('"').endswith("-3")
        assert len(answer.read()) == 20 * MEBI


def test_an_upload_that_fails_or_is_given_up_leaves_no_parts(server: S3Server) -> None:
    storage = open_at(server)

    def failing() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * MEBI
        raise LookupError("the caller's own")

    async def endless(began: asyncio.Event) -> AsyncGenerator[bytes, None]:
        for _ in range(20):
            yield b"x" * MEBI
        began.set()
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    async def cancelled() -> None:
        began = asyncio.Event()
        storing = asyncio.ensure_future(storage.aio.media.store(endless(began), "x"))
        await began.wait()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing

    async def too_long() -> None:
        with deadline(1.5), pytest.raises(errors.DeadlineExceeded):
            await storage.aio.media.store(endless(asyncio.Event()), "x")

    for store in in_both_modes(storage, lambda face: face.media.store(failing(), "x")):
        with pytest.raises(LookupError, match="the caller's own"):
            store()
    asyncio.run(cancelled())
    asyncio.run(too_long())
    assert unfinished(server) == 0
    assert list(storage.sync.media.list()) == []


def test_a_server_that_is_down_is_unavailable_and_comes_back(server: S3Server) -> None:
    storage = open_at(server)
    url = storage.sync.media.store(b"x", "a")
    server.kill()
    try:
        for read in in_both_modes(storage, lambda face: face.media.read(url)):
            with pytest.raises(errors.Unavailable):
                read()
        for store in in_both_modes(storage, lambda face: face.media.store(b"y", "b")):
            with pytest.raises(errors.Unavailable):
                store()
        for check in in_both_modes(storage, lambda face: face.health_check()):
            assert check()["blobs"] is False
        assert storage.sync.media.delete(url)  # the record goes; the next sweep takes the blob
    finally:
        server.start()
    for store in in_both_modes(storage, lambda face: face.media.store(b"z", "c")):
        assert storage.sync.media.read(store()) == b"z"


def test_a_frozen_server_ends_calls_at_their_deadline(server: S3Server) -> None:
    storage = open_at(server)
    url = storage.sync.media.store(b"x", "a")
    server.pause()
    try:
        for read in in_both_modes(storage, lambda face: face.media.read(url)):
            began = time.monotonic()
            with deadline(1.0), pytest.raises(errors.DeadlineExceeded):
                read()
            assert time.monotonic() - began < 5
        for store in in_both_modes(storage, lambda face: face.media.store(b"new", "b")):
            began = time.monotonic()
            with deadline(1.0), pytest.raises(errors.DeadlineExceeded):
                store()
            assert time.monotonic() - began < 5
    finally:
        server.resume()
    for read in in_both_modes(storage, lambda face: face.media.read(url)):
        assert read() == b"x"


def test_a_bucket_that_does_not_exist_is_named(server: S3Server) -> None:
    storage = UnifiedStorage("memory://", blobs=server.url.replace("@media", "@nowhere"))
    for call in (
        lambda face: face.media.store(b"x", "a"),
        lambda face: face.initialize(),
    ):
        for made in in_both_modes(storage, call):
            with pytest.raises(errors.ConfigurationError, match="s3://nowhere"):
                made()


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """A server that refuses everything, as real ones do and moto does not: moto believes every signature."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815  # the library's names

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"s3://key:hidden@media?endpoint=http://127.0.0.1:{httpd.server_port}&region=us-east-1"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.mark.parametrize(
    ("status", "code", "expected", "applied"),
    [
        (403, "AccessDenied", errors.PermissionDenied, "no"),
        (403, "SignatureDoesNotMatch", errors.AuthenticationFailed, "no"),
        (403, "InvalidAccessKeyId", errors.AuthenticationFailed, "no"),
        (401, "Whatever", errors.AuthenticationFailed, "no"),
        (404, "NoSuchBucket", errors.ConfigurationError, "no"),
        (400, "ExpiredToken", errors.AuthenticationFailed, "no"),
        (403, "QuotaExceeded", errors.StorageFull, "no"),
        (507, "XMinioStorageFull", errors.StorageFull, "no"),
        (503, "SlowDown", errors.RateLimited, "no"),
        (500, "InternalError", errors.OutcomeUnknown, "unknown"),
    ],
)
def test_what_a_server_refuses_has_its_own_error(
    status: int, code: str, expected: type[errors.AmbidexError], applied: str
) -> None:
    with answering(status, code) as url:
        storage = UnifiedStorage("memory://", blobs=url)
        for store in in_both_modes(storage, lambda face: face.media.store(b"x", "a")):
            with pytest.raises(expected) as caught:
                store()
            assert type(caught.value) is expected
            assert caught.value.applied == applied
            assert "hidden" not in str(caught.value) + repr(caught.value) + repr(storage)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://key@bucket",
        "s3://bucket?colour=blue",
        "s3://bucket?endpoint=127.0.0.1:9000",
        "s3://bucket?virtual_hosted=perhaps",
        "s3://bucket/a/../b",
    ],
)
def test_urls_that_cannot_work(url: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        UnifiedStorage("memory://", blobs=url).sync.media.store(b"x", "a")


def test_without_credentials_the_error_says_how_to_give_them(server: S3Server) -> None:
    code = f"""
from ambidex import UnifiedStorage, errors
storage = UnifiedStorage("memory://", blobs="s3://media?endpoint={server.endpoint}").sync
try:
    storage.media.store(b"x", "a")
except (errors.AuthenticationFailed, errors.Unavailable) as error:
    print(error)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "AWS_ACCESS_KEY_ID" in done.stdout


def test_credentials_and_endpoint_from_the_environment(server: S3Server) -> None:
    code = """
from ambidex import UnifiedStorage
storage = UnifiedStorage("memory://", blobs="s3://media/from-the-environment").sync
print(storage.media.read(storage.media.store(b"x", "a")))
"""
    environ = os.environ | {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_REGION": "us-east-1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "b'x'\n"


def test_a_forked_child_is_told_why_it_cannot(server: S3Server) -> None:
    code = f"""
import os
from ambidex import UnifiedStorage, errors
storage = UnifiedStorage("memory://", blobs={server.url!r}).sync
first = os.fork()
if first == 0:
    print(storage.media.read(storage.media.store(b"before", "a")), flush=True)
    os._exit(0)
os.waitpid(first, 0)
storage.media.store(b"x", "a")
second = os.fork()
if second == 0:
    try:
        storage.media.store(b"y", "b")
    except errors.ForkedUse as error:
        print("spawn" in str(error), flush=True)
    os._exit(0)
os.waitpid(second, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["b'before'", "True"]


@pytest.mark.torture
def test_a_process_that_ends_right_after_a_call_ends_cleanly(server: S3Server) -> None:
    code = f"""
import asyncio, sys
from ambidex import UnifiedStorage

async def main():
    storage = UnifiedStorage("memory://", blobs={server.url!r})
    if sys.argv[1] == "closed":
        async with storage as aio:
            await aio.store_media(b"x", "a", "text/plain")
    else:
        url = await storage.store_media([b"x" * 3000, b"y"], "a", "text/plain")
        await asyncio.gather(*(storage.media.read(url, 0, 10) for _ in range(10)))

asyncio.run(main())
"""
    rounds = 250 if os.environ.get("AMBIDEX_TORTURE") == "long" else 25
    for number in range(rounds):
        how = "closed" if number % 2 else "left"
        done = subprocess.run(
            [sys.executable, "-c", code, how], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
