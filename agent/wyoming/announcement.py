"""The announcement by which Home Assistant finds a Wyoming server on the local network (mDNS, DNS-SD)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from functools import partial

from ...models.errors import ConfigError

SERVICE = "_wyoming._tcp.local."


class Announcement:
    """Says where the server is, while it is open.

    host: the address it listens on; one of all addresses announces the one by which the network is reached.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            from zeroconf import ServiceInfo
            from zeroconf.asyncio import AsyncZeroconf
        except ModuleNotFoundError:
            raise ConfigError("wyoming_announce needs zeroconf: pip install 'speechgpt-gen[wyoming]'") from None
        address = _announced(host)
        name = f"speechgpt-gen-{socket.gethostname().partition('.')[0]}-{port}"
        self._info = ServiceInfo(SERVICE, f"{name}.{SERVICE}", port=port, parsed_addresses=[address])
        self._make: Callable[[], AsyncZeroconf] = partial(AsyncZeroconf, interfaces=[address])
        self._zeroconf: AsyncZeroconf | None = None

    async def open(self) -> None:
        """Announce it. Raises ConfigError when the network cannot be used."""
        try:
            self._zeroconf = self._make()
            await self._zeroconf.async_register_service(self._info)
        except OSError as error:
            raise ConfigError(f"cannot announce Wyoming on the network: {error.strerror or error}") from None

    async def close(self) -> None:
        """Take it back."""
        if self._zeroconf is not None:
            await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()


def _announced(host: str) -> str:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(f"cannot announce {host!r}: give --wyoming an address instead of a name") from None
    if not address.is_unspecified:
        return str(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("224.0.0.251", 5353))  # sends nothing: asks which of our addresses would
        except OSError:
            raise ConfigError("there is no network to announce Wyoming on") from None
        return str(probe.getsockname()[0])
