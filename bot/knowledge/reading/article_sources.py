"""Article sources: folders, files and web pages, behind an SSRF guard.

A page's address comes from a user, and this machine may reach hosts that the user can't (server-side request forgery).
So only public addresses are fetched, each redirect is checked again, and the checked IP address is the one connected
to (against DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bot.knowledge.reading.formats import MAX_BYTES, Unreadable, is_readable_name

# RFC 6052: the last four bytes are an IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
MAX_FILES = 20_000
MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30
_ENDINGS = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "application/pdf": ".pdf",
    "text/csv": ".csv",
}


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield `(path below the folder, file)` of all readable files, by name, without hidden files and linked folders.

    Raises `Unreadable` for a missing folder or one with more than `MAX_FILES` files.
    """
    if not folder.is_dir():
        raise Unreadable("there is no such folder (any more)")
    root = folder.resolve()
    found: list[tuple[str, Path]] = []
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(below for below in folders if not below.startswith("."))
        for name in sorted(names):
            file = Path(parent, name)
            if name.startswith(".") or not is_readable_name(name):
                continue
            found.append((file.relative_to(root).as_posix(), file))
            if len(found) > MAX_FILES:
                raise Unreadable(f"it holds more than {MAX_FILES:,} files; add its subfolders one by one")
    yield from sorted(found)


def read_file(file: Path, *, within: Path | None = None) -> bytes:
    """Return a file's bytes. Raises `Unreadable` if it is missing, too large, forbidden, or not `within` a folder."""
    try:
        if within is not None and not file.resolve().is_relative_to(within.resolve()):
            raise Unreadable("it is a link that leads out of the folder")
        if not file.is_file():
            raise Unreadable("there is no such file (any more)")
        if (size := file.stat().st_size) > MAX_BYTES:
            raise Unreadable(f"it has {size / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20} MB")
        return file.read_bytes()
    except OSError as error:
        raise Unreadable(f"it can't be read: {error.strerror}") from error


def check_url(url: str) -> None:
    """Raise `Unreadable` for an address outside the public web (SSRF guard, before the name is resolved)."""
    try:
        # Parsed as aiohttp does: digits and dots beyond ASCII are normalised to ASCII, too.
        parts = URL(url)
    except ValueError as error:
        raise Unreadable(f"it is not a valid address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise Unreadable("an address begins with http:// or https://")
    if parts.user or parts.password:
        raise Unreadable("an address may not contain a user name or password")
    try:
        literal = ipaddress.ip_address(parts.raw_host or "")
    except ValueError:
        return
    if not _is_public(literal):
        raise Unreadable(f"{parts.host} is not a public address, and private ones are never fetched")


async def fetch(url: str) -> tuple[str, bytes]:
    """Fetch a page and return `(file name with an ending, content)`. Raises `Unreadable`.

    Redirects are followed by hand, so that the SSRF guard sees every address.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(resolver=_GuardedResolver())
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            for _ in range(MAX_REDIRECTS):
                check_url(url)
                async with session.get(url, allow_redirects=False, headers={"User-Agent": "Myna"}) as answer:
                    if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                        url = urllib.parse.urljoin(url, answer.headers["Location"])
                        continue
                    return await _content(url, answer)
    except TimeoutError as error:
        raise Unreadable(f"it did not answer within {TIMEOUT_SECONDS} seconds") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = _PrivateAddress.reason_in(error) or str(error) or type(error).__name__
        raise Unreadable(f"it can't be fetched: {reason}") from error
    raise Unreadable("it redirects too many times")


async def _content(url: str, answer: aiohttp.ClientResponse) -> tuple[str, bytes]:
    if answer.status != 200:
        raise Unreadable(f"it answers with {answer.status} {answer.reason}")
    content = await answer.content.read(MAX_BYTES + 1)
    while len(content) <= MAX_BYTES and not answer.content.at_eof():
        content += await answer.content.read(MAX_BYTES + 1 - len(content))
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/")
    name = path.rpartition("/")[2] or urllib.parse.urlsplit(url).hostname or "page"
    ending = _ENDINGS.get(answer.content_type, "")
    return name if is_readable_name(name) and ending != ".html" else name + (ending or ".html"), content


class _PrivateAddress(OSError):
    """Raised for a name that resolves to an address inside a network."""

    @classmethod
    def reason_in(cls, error: BaseException | None) -> str | None:
        """Return the message of the first such error in the chain of causes; None if there is none."""
        while error is not None:
            if isinstance(error, cls):
                return str(error)
            error = error.__cause__ or error.__context__
        return None


class _GuardedResolver(AbstractResolver):
    """Resolver of the SSRF guard: refuses names with any address inside a network.

    aiohttp connects to the addresses returned here, so that no second look-up can change them.
    """

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(_is_public(ipaddress.ip_address(address["host"])) for address in found):
            raise _PrivateAddress(f"{host} resolves to an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return True for a public address whose embedded IPv4 address (mapped, NAT64, 6to4), if any, is public too."""
    if not address.is_global or address.is_multicast:
        return isinstance(address, ipaddress.IPv6Address) and _is_public_mapped(address)
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(address.packed[-4:]))
        if address.sixtofour is not None:
            return _is_public(address.sixtofour)
    return True


def _is_public_mapped(address: ipaddress.IPv6Address) -> bool:
    return address.ipv4_mapped is not None and _is_public(address.ipv4_mapped)
