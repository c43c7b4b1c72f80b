"""Against a server that checks signatures: who signs wrongly, another thing or too long ago is refused, and typed."""

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ambidex import UnifiedStorage, errors
from tests.services import S3Server, Service, SignedS3Server
from tests.services.catalogue import KINDS

REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)


@pytest.fixture(scope="module")
def server() -> Iterator[SignedS3Server]:
    """One that is killed and looked into."""
    if reason := KINDS["s3-signed"].unavailable("wheel"):
        pytest.skip(f"s3-signed: {reason}")
    with SignedS3Server() as server:
        yield server


def kept(server: SignedS3Server) -> dict[Path, bytes]:
    """Every blob that is there."""
    return {path: path.read_bytes() for path in server.bucket.rglob("*") if path.is_file()}


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


def changed(url: str) -> dict[str, str]:
    """The URL with one thing changed after it was signed."""
    parts = urlsplit(url)
    signature = parse_qs(parts.query)["X-Amz-Signature"][0]
    expires = parse_qs(parts.query)["X-Amz-Expires"][0]
    return {
        "signature": url.replace(signature, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        "no signature": url.replace(f"&X-Amz-Signature={signature}", ""),
        "expiry": url.replace(f"X-Amz-Expires={expires}", "X-Amz-Expires=604800"),
        "another blob": url.replace(parts.path, parts.path + "x"),
        "nothing signed": url.partition("?")[0],
    }


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_presigned_url_is_good_for_its_blob_and_its_time(mode: str, signed_s3_server: Service) -> None:
    storage = UnifiedStorage("memory://", blobs=signed_s3_server.url)
    url = storage.sync.media.store(b"for a while", "a ü.txt", "text/plain")

    def signed(seconds: int) -> str:
        if mode == "sync":
            return storage.sync.media.presign(url, seconds)
        return asyncio.run(storage.aio.media.presign(url, seconds))

    short = signed(1)
    good = signed(60)
    assert fetch(good) == (HTTPStatus.OK, b"for a while")
    for what, forged in changed(good).items():
        status, body = fetch(forged)
        assert status in REFUSED, what
        assert b"for a while" not in body, what
    threading.Event().wait(2.1)
    assert fetch(short)[0] in REFUSED
    assert fetch(good) == (HTTPStatus.OK, b"for a while")


def test_control_a_server_that_does_not_check_takes_what_is_forged(s3_server: Service) -> None:
    if not isinstance(s3_server, S3Server):
        pytest.skip("a real server checks")
    storage = UnifiedStorage("memory://", blobs=s3_server.url)
    good = storage.sync.media.presign(storage.sync.media.store(b"for all", "a"), 60)
    assert fetch(changed(good)["signature"]) == (HTTPStatus.OK, b"for all")


def everything(face: Any, url: str) -> dict[str, Callable[[], Any]]:
    """Every use of the bucket."""
    return {
        "store": lambda: face.media.store(b"intruder", "a"),
        "store a large one": lambda: face.media.store([b"x" * 1024 * 1024] * 20, "large"),
        "read": lambda: face.media.read(url),
        "sweep": face.media.sweep,
        "initialize": face.initialize,
    }


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("credentials", ["wrong secret", "unknown key"])
def test_wrong_credentials_are_refused_typed_before_anything_is_changed(
    mode: str, credentials: str, server: SignedS3Server, tmp_path: Path
) -> None:
    records = f"sqlite:///{tmp_path}/records.db"
    wrong = server.url_for("wrong-secret") if credentials == "wrong secret" else server.url_for("any", "nobody")
    owner, intruder = UnifiedStorage(records, blobs=server.url), UnifiedStorage(records, blobs=wrong)
    url = owner.sync.media.store(b"the owner's", "a")
    before = kept(server)
    face: Any = intruder.sync if mode == "sync" else intruder.aio
    for what, call in everything(face, url).items():
        with pytest.raises(errors.PermissionDenied, match="s3://media") as caught:
            call() if mode == "sync" else asyncio.run(call())
        # what asks for a blob's head is refused without a reason: such an answer has no body
        assert isinstance(caught.value, errors.AuthenticationFailed) or what == "read", what
        assert (caught.value.applied, caught.value.retryable) == ("no", False), what
        assert "wrong-secret" not in str(caught.value) + repr(caught.value), what
    health = intruder.sync.health_check() if mode == "sync" else asyncio.run(intruder.aio.health_check())
    assert (health["blobs"], health["kv"]) == (False, True)
    assert kept(server) == before
    assert [info.name for info in owner.sync.media.list()] == ["a"]
    assert fetch(owner.sync.media.presign(url))[1] == b"the owner's"
    owner.close()
    intruder.close()


def test_what_was_acknowledged_survives_kill_9_of_the_store(server: SignedS3Server) -> None:
    storage = UnifiedStorage("memory://", blobs=server.url)
    urls = {number: storage.sync.media.store(b"%d" % number * 1000, f"{number}") for number in range(5)}
    server.kill()
    with pytest.raises(errors.Unavailable):
        storage.sync.media.store(b"while it is down", "x")
    server.start()
    for number, url in urls.items():
        assert fetch(storage.sync.media.presign(url)) == (HTTPStatus.OK, b"%d" % number * 1000)
    again = asyncio.run(storage.aio.media.store(b"after", "y"))
    assert fetch(storage.sync.media.presign(again))[1] == b"after"
