"""Chromium for the browser tests: the installed one, else Debian's (as root), else npm's @sparticuz/chromium.

Run as a program it makes sure that there is one and prints its path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NPM_FOLDER = ROOT / ".cache" / "chromium"
NPM_PACKAGE = "@sparticuz/chromium@149.0.0"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def installed_chromium() -> str | None:
    """Return the path of an installed Chromium, None if there is none."""
    if given := os.environ.get("MYNA_TEST_CHROMIUM"):
        return given
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    noted = NPM_FOLDER / "path"
    unpacked = noted.read_text().strip() if noted.exists() else ""  # it lies in /tmp, which a restart may empty
    return found or (unpacked if Path(unpacked).is_file() else None)


def install_chromium() -> str:
    """Install Chromium. Raises `SystemExit` with the way out when neither source works."""
    if os.geteuid() == 0 and shutil.which("apt-get") and _install_debian():
        return installed_chromium() or sys.exit("apt-get installed chromium, but it is not on the PATH")
    return _install_npm()


def _install_debian() -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    steps = (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"])
    return all(
        subprocess.run(step, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0 for step in steps
    )


def _install_npm() -> str:
    sys.path.insert(0, str(ROOT))  # run as a program, only this folder is on the path
    from tests.tools.npm import node_environment, run_npm

    NPM_FOLDER.mkdir(parents=True, exist_ok=True)
    if run_npm("install", "--prefix", str(NPM_FOLDER), "--silent", "--no-fund", "--no-audit", NPM_PACKAGE) != 0:
        sys.exit("No Chromium found and none could be fetched. Install one and set MYNA_TEST_CHROMIUM to its path.")
    node, environment = node_environment()
    script = 'import("@sparticuz/chromium").then(async m => console.log(await m.default.executablePath()))'
    done = subprocess.run(
        [str(node), "-e", script], cwd=NPM_FOLDER, env=environment, capture_output=True, text=True, check=True
    )
    (NPM_FOLDER / "path").write_text(done.stdout)
    return done.stdout.strip()


if __name__ == "__main__":
    print(installed_chromium() or install_chromium())
