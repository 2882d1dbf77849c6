"""`gpt serve`: answer the protocol over HTTP."""

from __future__ import annotations

import argparse
import logging
import os
import sys


def arguments(made: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    made.add_argument(
        "target", nargs="*", metavar="TARGET",
        help='what answers: "local:" (the default, the model in the box), a GGUF file, or the URL of a server; of several the '
        "next is asked where the one before fails",
    )  # fmt: skip
    made.add_argument("-m", "--model", help="the model of a server behind, where a caller names none")
    made.add_argument("--alias", action="append", default=[], metavar="NAME", help="another name that callers may ask for")

    where = made.add_argument_group("where it listens, and who is let in")
    where.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1: this machine alone)")
    where.add_argument("--port", type=int, default=8080, help="port (default 8080; 0 takes a free one)")
    where.add_argument(
        "--api-key-file", metavar="FILE", help="keys that callers may have, one a line; also GPT_SERVE_API_KEYS, with commas"
    )
    where.add_argument("--no-auth", action="store_true", help="let everybody in who reaches the address")
    where.add_argument(
        "--allow-host", action="append", default=[], dest="allow_hosts", metavar="NAME", help="another name of this server"
    )
    where.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        dest="cors_origins",
        metavar="ORIGIN",
        help="pages of this origin may call, as in https://a.example",
    )

    engine = made.add_argument_group("the model in this process")
    engine.add_argument("--slots", type=int, metavar="N", help="calls at a time (default 4; of a server behind, 256)")
    engine.add_argument("--context", type=int, metavar="N", help="tokens of one call, prompt and answer together")
    engine.add_argument("--threads", type=int, metavar="N", help="CPU threads (default one a core)")

    behind = made.add_argument_group("a server behind (its key is the environment's OPENAI_API_KEY)")
    behind.add_argument("--upstream-key-file", metavar="FILE", help="a file with its key")
    behind.add_argument("--profile", metavar="NAME", help="what kind of server it is, as in vllm")
    behind.add_argument("--adapt", action="store_true", help="fix the parameter that it says it does not take, and ask again")
    behind.add_argument("--retries", type=int, metavar="N", help="further attempts of a call that failed (default 2)")
    behind.add_argument("--timeout", type=float, metavar="S", help="seconds that an attempt may take")

    layers = made.add_argument_group("between callers and model")
    layers.add_argument("--queue", type=int, default=64, metavar="N", help="calls that wait for a slot (default 64)")
    layers.add_argument("--rpm", type=float, metavar="N", help="requests a minute at most")
    layers.add_argument("--tpm", type=float, metavar="N", help="tokens a minute at most")
    layers.add_argument("--cache", metavar="FILE", help="give equal requests the same answer again, from this file")
    layers.add_argument("--cache-age", type=float, metavar="S", help="seconds after which an answer is too old")
    layers.add_argument("--cache-bytes", type=int, metavar="N", help="bytes that the file may have")
    layers.add_argument("--record", metavar="FILE", help="write calls down, as Replay reads them")
    layers.add_argument("--store", metavar="FILE", help="where completions are kept that ask for it with store=true")
    layers.add_argument("--store-days", type=float, metavar="N", help="days after which they go")
    layers.add_argument(
        "--lenient", action="store_true", help="drop parameters that cannot be honoured, and say so in a header"
    )

    limits = made.add_argument_group("limits")
    limits.add_argument("--grace", type=float, default=30.0, metavar="S", help="seconds to end in after SIGTERM (default 30)")
    limits.add_argument(
        "--ping", type=float, default=15.0, metavar="S", help="seconds of silence before a comment (default 15)"
    )
    limits.add_argument(
        "--max-body", type=int, default=32 * 1024 * 1024, metavar="N", help="bytes of a request (default 32 MiB)"
    )
    limits.add_argument("--max-messages", type=int, default=10_000, metavar="N", help="messages of a request (default 10000)")
    limits.add_argument("-q", "--quiet", action="store_true", help="log what goes wrong, and nothing else")


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes. Gives the exit status."""
    from gpt.errors import GptError

    try:
        from gpt.server import run
        from gpt.server.http import Server as _  # noqa: F401 - whether it is installed is known before anything is opened
    except ImportError as error:
        raise GptError(f'gpt serve needs {error.name}: pip install "gpt-in-the-box[local,serve]"') from error
    _log(quiet=options.quiet)
    given = vars(options)
    remote = {
        "profile": options.profile,
        "adapt": options.adapt or None,
        "max_retries": options.retries,
        "timeout": options.timeout,
        "api_key": run.first_key(options.upstream_key_file) if options.upstream_key_file else None,
    }
    engine = {name: given[name] for name in ("slots", "context", "threads") if given[name] is not None}
    what = run.behind(options.target, model=options.model, aliases=options.alias, engine=engine, remote=remote)
    what = run.layered(what, **{name: given[name] for name in ("rpm", "tpm", "cache", "cache_age", "cache_bytes", "record")})
    named = {name: given[name] for name in run.ServeSettings.__struct_fields__ if name != "keys"}
    settings = run.ServeSettings(keys=run.keys_in(options.api_key_file), **named)
    app = run.application(what, settings)
    listener = run.listening(options.host, options.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"gpt: {what.said} answers at http://{shown}:{port}/v1, and a page at http://{shown}:{port}/", file=sys.stderr)
    sys.stderr.flush()
    return run.run(app, listener, options.grace)


def _log(*, quiet: bool) -> None:
    """Send what the server says to stderr, a line each."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # the engine's threads would keep the cores from the server's own
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("gpt.server")
    root.addHandler(handler)
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("uvicorn.error").addHandler(handler)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
