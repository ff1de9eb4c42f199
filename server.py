"""cld for an MCP host: `python server.py` serves the tree on stdin and stdout. Settings → runtime → stdio."""

import argparse
import sys

import anyio

from cld.config import load_settings
from cld.errors import CldError
from cld.logs import begin
from cld.server import serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, what in {
        "root": "the tree, a folder or an fsspec URL (CLD_ROOT)",
        "policies": "the folder of the rules (CLD_POLICIES)",
        "principal": "who the host acts for, as user:ada (CLD_PRINCIPAL)",
        "tools": "core, all, or names with commas between (CLD_TOOLS)",
        "http": "HOST:PORT to serve HTTP there instead",
    }.items():
        parser.add_argument(f"--{name}", help=what)
    try:
        settings = load_settings(vars(parser.parse_args()))
        begin(settings.log)
        anyio.run(serve, settings)
    except CldError as error:
        sys.exit(f"cld: {error}")
