"""The command `serve`: a page on which two photographs are compared."""

import argparse
import ipaddress

from dcal_core.commands.bare_parser import bare_parser
from dcal_core.environment import output_root

LOOPBACK = "127.0.0.1"


def parser_of_serve() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = bare_parser(
        "serve",
        "Serve a page on which two photographs are compared: verdict, certainty, and where they differ.",
        "models/demo",
    )
    parser.add_argument("model", nargs="?", help="a packed model, a run, or a repository; the run evaluated last")
    parser.add_argument("--host", default=LOOPBACK, help=f"address to listen at; {LOOPBACK}, this machine alone")
    parser.add_argument("--port", type=int, metavar="N", help="the first free one from 7860 on")
    parser.add_argument("--aligned", action="store_true", help="take pictures as aligned faces, look for none")
    return parser


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: list[str]) -> int:
    """Run the command until it is interrupted; returns the exit status."""
    options = parser_of_serve().parse_args(arguments)
    from dcal_core.deploy.cache import FeatureCache
    from dcal_core.deploy.package import newest_run
    from dcal_core.deploy.page import start
    from dcal_core.deploy.predictor import Predictor

    model = options.model or newest_run(output_root())
    find_faces = False if options.aligned else None
    predictor = Predictor.from_pretrained(model, find_faces=find_faces, cache=FeatureCache(most=0))
    page = start(predictor, options.host, options.port)
    if not is_loopback(options.host):
        print(f"Anyone who reaches {options.host} can use the page: it asks for no password.")
    print(f"{page.local_url} shows {model}; Ctrl-C ends it.", flush=True)
    page.block_thread()
    return 0
