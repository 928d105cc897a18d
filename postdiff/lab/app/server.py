"""The page on an address of this machine, until somebody ends it."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError, shown
from postdiff.lab.files import folders
from postdiff.lab.pipelines import cards

__all__ = ["AppOptions", "Server", "serve"]

PORTS = range(7860, 7900)  # the first free one is taken, if none is asked for
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Foreseen = Callable[[Exception], str | None]


@dataclass(frozen=True)
class AppOptions:
    """What is asked for.

    Attributes:
        model: a model card or a pipeline folder, that is chosen at first.
        host: address to listen on.
        port: None means the first free one of `PORTS`.
    """

    model: str = "emoji"
    host: str = LOOPBACK[0]
    port: int | None = None


class Server:
    """The page, served from a thread of its own; as a context, it ends at the block's end.

    Args:
        options: what is asked for.
        foreseen: the one line for an error that a user can mend, or None.

    Attributes:
        address: where the page is.

    Raises:
        UsageError: Gradio is not installed, no such model, or the address cannot be listened on.
    """

    def __init__(self, options: AppOptions, foreseen: Foreseen) -> None:
        self._foreseen = foreseen
        cards.card(options.model)
        folders.writable_outputs()
        port = _port(options)
        self._files = tempfile.TemporaryDirectory(prefix="postdiff-app-")
        # Read when Gradio is imported: nothing is told to anybody, and no version is looked up.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=self._files.name)
        try:
            import gradio as gr
        except ImportError as error:
            self._files.cleanup()
            raise UsageError('the page needs gradio; pip install "postdiff[app]"') from error
        from postdiff.lab.app import events, fields, page
        from postdiff.lab.app.generation import Engine
        from postdiff.lab.app.sessions import Sessions

        self._sessions = Sessions()
        with gr.Blocks(title="PostDiff", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as self._blocks:
            made = page.lay_out(options.model, fields.forms())
            events.connect(self._blocks, made, Engine(), self._sessions, self._explained)
        self._blocks.queue(api_open=False)
        settings: dict[str, Any] = {"share": False, "ssr_mode": False, "pwa": False, "mcp_server": False}
        self._blocks.launch(
            server_name=options.host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
            theme=page.theme(),
            css=page.css(),
            **settings,
        )
        host = f"[{options.host}]" if ":" in options.host else options.host
        self.address = f"http://{host}:{port}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._sessions.leave(None)
        self._blocks.close(verbose=False)
        self._files.cleanup()

    def _explained(self, error: Exception) -> str:
        """One line for the page; what nobody has foreseen goes to the log in full."""
        if (line := self._foreseen(error)) is not None:
            return " ".join(line.split())
        log = log_file()
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n")
            traceback.print_exception(error, file=file)
        reason = shown(" ".join(f"{type(error).__name__}: {error}".split()), 200)
        return f"something went wrong that nobody has foreseen ({reason}); the log says more: {log}"


def serve(options: AppOptions, foreseen: Foreseen, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C, or the end of the process is asked for.

    Args:
        options: what is asked for.
        foreseen: as of `Server`.
        say: told where the page is.

    Raises:
        UsageError: as of `Server`.
    """
    with Server(options, foreseen) as server:
        beyond = "" if options.host in LOOPBACK else "; whoever reaches this machine may use it"
        say(f"the page is at {server.address} (Ctrl-C ends it){beyond}")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            say("ended")


def log_file() -> Path:
    """Where unexpected errors are written down."""
    file = folders.outputs().absolute() / "app" / "log.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _port(options: AppOptions) -> int:
    """A port that is free.

    Raises:
        UsageError: the one asked for is taken, or all are, or the host is none of this machine.
    """
    if options.port is not None and not 1 <= options.port <= 65535:
        raise UsageError(f"--port {options.port} is no port; use 1 to 65535, mostly above 1023")
    wanted = PORTS if options.port is None else [options.port]
    reason = ""
    for port in wanted:
        try:
            family = socket.getaddrinfo(options.host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                if sys.platform != "win32":
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((options.host, port))
                return port
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    named = f"port {options.port}" if options.port is not None else f"ports {PORTS[0]} to {PORTS[-1]}"
    raise UsageError(f"{named} of {shown(options.host)} cannot be listened on ({reason}); give another with --port")
