"""Where articles are read from: folders, files, and pages of the web.

Knows: what lies in a folder, and which addresses a server may be asked to fetch. Does not know: formats, the index.

A page's address comes from a person, and this machine may reach what that person can't: so only public addresses are
fetched, each redirect is looked at again, and the name is resolved once for looking and connecting.
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

# RFC 6052: the last four bytes are an address of IPv4.
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
    """`(path below the folder, file)` of all that is to be read, by name. Not what is hidden or in linked folders.

    Raises `Unreadable` for a folder that is not there, or has far too much in it.
    """
    if not folder.is_dir():
        raise Unreadable("there is no such folder (any more)")
    root = folder.resolve()
    found: list[tuple[str, Path]] = []
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(names):
            file = Path(parent, name)
            if name.startswith(".") or not is_readable_name(name):
                continue
            found.append((file.relative_to(root).as_posix(), file))
            if len(found) > MAX_FILES:
                raise Unreadable(f"it holds more than {MAX_FILES:,} files; add the folders below it one by one")
    yield from sorted(found)


def read_file(file: Path, *, within: Path | None = None) -> bytes:
    """A file's bytes. Raises `Unreadable` for what is no file, is too large, may not be read, or is not `within`."""
    try:
        if within is not None and not file.resolve().is_relative_to(within.resolve()):
            raise Unreadable("it is a link that leads out of the folder")
        if not file.is_file():
            raise Unreadable("there is no such file (any more)")
        if (size := file.stat().st_size) > MAX_BYTES:
            raise Unreadable(f"it has {size / 2**20:.0f} MB, and {MAX_BYTES // 2**20} MB are the most")
        return file.read_bytes()
    except OSError as error:
        raise Unreadable(f"it can't be read: {error.strerror}") from error


def check_url(url: str) -> None:
    """Raises `Unreadable` for an address that is not one of the public web."""
    try:
        # As aiohttp understands it: other digits and dots than those of ASCII are read as these, too.
        parts = URL(url)
    except ValueError as error:
        raise Unreadable(f"it is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise Unreadable("an address begins with http:// or https://")
    if parts.user or parts.password:
        raise Unreadable("an address may not hold a name or password")
    try:
        literal = ipaddress.ip_address(parts.raw_host or "")
    except ValueError:
        return
    if not _is_public(literal):
        raise Unreadable(f"{parts.host} is an address inside a network, and is not fetched")


async def fetch(url: str) -> tuple[str, bytes]:
    """`(a name with an ending, content)` of a page. Raises `Unreadable`."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(resolver=_PublicResolver())
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
        reason = _Inside.reason_in(error) or str(error) or type(error).__name__
        raise Unreadable(f"it can't be fetched: {reason}") from error
    raise Unreadable("it leads from one address to the next, and never ends")


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


class _Inside(OSError):
    """A name that leads into a network."""

    @classmethod
    def reason_in(cls, error: BaseException | None) -> str | None:
        """What it says, wherever in the chain of causes it stands."""
        while error is not None:
            if isinstance(error, cls):
                return str(error)
            error = error.__cause__ or error.__context__
        return None


class _PublicResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to addresses inside a network."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(_is_public(ipaddress.ip_address(one["host"])) for one in found):
            raise _Inside(f"{host} leads to an address inside a network")
        return found

    async def close(self) -> None:
        await self._inner.close()


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the public net, and so is the older one that it may stand for."""
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
