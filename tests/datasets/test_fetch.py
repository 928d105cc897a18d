"""Fetching from a server on loopback: broken connections, resumption, wrong bytes, refusals, and no server at all."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from postdiff.datasets import fetch
from postdiff.datasets.fetch import PIECE
from postdiff.engine.errors import UsageError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves CONTENT under any path, as told.

    Attributes:
        breaks: after how many bytes of each answer the connection ends, one by one; then no more.
        status: answered instead, where it is not 200.
        tag: version of the file; None for a server that names none.
        ranges: whether it serves parts.
        asked: the header Range of every request.
    """

    def __init__(self):
        self.content, self.breaks, self.status, self.tag, self.ranges, self.asked = CONTENT, [], 200, '"v1"', True, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/set/file.bin"

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.status != 200:
            request.send_error(self.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not self.ranges or request.headers.get("If-Range") != self.tag:
            start = 0
        if start >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(self.content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.tag:
            request.send_header("ETag", self.tag)
        request.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else None
        request.wfile.write(self.content[start:end])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "WAIT_S", 0.0)
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "downloads" / "file.bin"


def left(file):
    return sorted(path.name for path in file.parent.iterdir())


def test_a_whole_file(server, file, capsys):
    fetch.fetch(server.url, file, ("md5", MD5))
    assert file.read_bytes() == CONTENT and left(file) == ["file.bin"]
    assert "100%" in capsys.readouterr().err, "a bar tells how far it is"
    fetch.fetch(server.url, file)
    assert len(server.asked) == 1, "what is there is not fetched again"


def test_a_broken_connection_is_taken_up_where_it_ended(server, file):
    server.breaks = [4 * PIECE, 0, 3 * PIECE]
    fetch.fetch(server.url, file, ("md5", MD5))
    assert file.read_bytes() == CONTENT and left(file) == ["file.bin"]
    assert server.asked == [None, *(f"bytes={pieces * PIECE}-" for pieces in (4, 4, 7))]


def test_a_later_process_goes_on_too(server, file):
    server.breaks = [4 * PIECE] + [0] * fetch.TRIES
    with pytest.raises(UsageError, match="cannot be fetched"):
        fetch.fetch(server.url, file)
    assert left(file) == ["file.bin.part", "file.bin.part.tag"]
    server.breaks = []
    fetch.fetch(server.url, file)
    assert file.read_bytes() == CONTENT and server.asked[-1] == f"bytes={4 * PIECE}-" and left(file) == ["file.bin"]


def test_a_file_that_has_changed_meanwhile_is_not_patched_together(server, file):
    server.breaks = [4 * PIECE] + [0] * fetch.TRIES
    with pytest.raises(UsageError, match="cannot be fetched"):
        fetch.fetch(server.url, file)
    server.breaks, server.tag, server.content = [], '"v2"', CONTENT[::-1]
    fetch.fetch(server.url, file)
    assert file.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("without", ["ranges", "tag"])
def test_servers_that_cannot_go_on_are_asked_from_the_start(server, file, without):
    setattr(server, without, False if without == "ranges" else None)
    server.breaks = [4 * PIECE]
    fetch.fetch(server.url, file, ("md5", MD5))
    assert file.read_bytes() == CONTENT


def test_a_part_that_was_whole_already(server, file):
    file.parent.mkdir()
    (file.parent / "file.bin.part").write_bytes(CONTENT)
    (file.parent / "file.bin.part.tag").write_text('"v1"')
    fetch.fetch(server.url, file, ("md5", MD5))
    assert file.read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_name(server, file):
    with pytest.raises(UsageError, match=f"md5 {MD5}, and the published one is {'0' * 32}; try again, or") as error:
        fetch.fetch(server.url, file, ("md5", "0" * 32))
    assert left(file) == [] and str(file) in str(error.value)


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, fetch.TRIES)])
def test_a_server_that_refuses(server, file, status, tries):
    server.status = status
    with pytest.raises(UsageError, match=rf"cannot be fetched \(HTTP {status} .*put it at {file}") as error:
        fetch.fetch(server.url, file)
    assert left(file) == [] and len(server.asked) == tries and "\n" not in str(error.value)


def test_two_at_once_fetch_it_once(server, file):
    """Whoever waits for the lock finds it gone when it is free, and the file there."""
    servers = [threading.Thread(target=fetch.fetch, args=(server.url, file)) for _ in range(4)]
    for each in servers:
        each.start()
    for each in servers:
        each.join()
    assert file.read_bytes() == CONTENT and left(file) == ["file.bin"] and len(server.asked) == 1


def test_no_server(server, file):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UsageError, match=r"cannot be fetched \(no connection\).*give the same command again") as error:
        fetch.fetch(server.url, file)
    assert left(file) == [] and "\n" not in str(error.value)
