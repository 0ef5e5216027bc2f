"""Ports of a home's router, by a real daemon of routers: `python -m tests.nat.ports PATH_OF_MINIUPNPD`.

Debian has it: `apt-get download miniupnpd-nftables`, `dpkg -x` into a folder; nothing is installed. Prints what our own
side of it made of that router, and whether a stranger got in. Exit code 1: something was not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsdnode.net.mapper import PortMapper
from dsdnode.net.mapping import Mapped
from tests.nat.lab import Host, Lab, lab
from tests.nat.look import dial
from tests.nat.namespaces import why_not, within

PORT = 29170
WAIT_S = 10.0
CLOCK_S = 5.0
"""A router that starts again before its clock has come so far is not told from one that has not."""
TABLE = """
table inet miniupnpd
delete table inet miniupnpd
table inet miniupnpd {
    chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump prerouting_miniupnpd; }
    chain prerouting_miniupnpd { }
    chain postrouting { type nat hook postrouting priority srcnat; policy accept; jump postrouting_miniupnpd; }
    chain postrouting_miniupnpd { }
}
"""
SETTINGS = """
ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=no
secure_mode=yes
min_lifetime=5
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
uuid=00000000-0000-0000-0000-000000000000
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class Daemon:
    """The router's, of one home. `begin` is also how it starts after its machine has: with no mappings left."""

    def __init__(self, program: str, home: Host, folder: Path) -> None:
        self._home, self._folder, self._program = home, folder, program
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        words = [*within(self._home.router), "nft", "-f", "-"]
        subprocess.run(words, input=TABLE, text=True, check=True)
        settings = self._folder / f"{self._home.router}.conf"
        settings.write_text(SETTINGS)
        words = [*within(self._home.router), self._program, "-d", "-f", str(settings)]
        words += ["-P", str(settings.with_suffix(".pid"))]
        with settings.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)

    def end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def daemon(program: str, home: Host, folder: Path) -> Iterator[Daemon]:
    made = Daemon(program, home, folder)
    try:
        yield made
    finally:
        made.end()


class Asker:
    """A machine of a home that wants PORT."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.changes: asyncio.Queue[Mapped | None] = asyncio.Queue()
        self.mapper = PortMapper(PORT, self.changes.put_nowait)
        with host.inside():
            self.door = socket.create_server(("0.0.0.0", PORT))

    async def ask(self) -> tuple[Mapped | None, float]:
        began = time.monotonic()
        with self.host.inside():
            self.mapper.start()
        return await asyncio.wait_for(self.mapper.settled(), WAIT_S), time.monotonic() - began

    async def close(self) -> None:
        await self.mapper.close()
        self.door.close()


class Report:
    def __init__(self) -> None:
        self.status = 0

    def line(self, what: str, told: object, is_right: bool) -> None:
        print(f"{'ok   ' if is_right else 'WRONG'} {what}: {told}", flush=True)
        self.status |= not is_right


async def _one_home(town: Lab, program: str, folder: Path, report: Report) -> None:
    stranger, home = town.home("public"), town.home("prc", num_hosts=2)
    alice, bob = Asker(home), Asker(home.others[0])
    place = (home.public_ip, PORT)
    mapped, took_s = await alice.ask()
    report.line("no daemon there", f"{alice.mapper.why_not}, after {took_s * 1000:.0f} ms", mapped is None)
    alice.mapper.stop()
    with daemon(program, home, folder) as router:
        router.begin()
        await asyncio.sleep(1.0)  # it says nothing when it listens
        report.line("a stranger, before", heard := dial([stranger], place)[0], heard == "silence")
        mapped, took_s = await alice.ask()
        report.line("alice's port", f"{mapped}, after {took_s * 1000:.0f} ms", _place(mapped) == place)
        report.line("a stranger, then", heard := dial([stranger], place)[0], heard == "open")
        mapped, _ = await bob.ask()
        report.line("bob's, of the same home", mapped, mapped is not None and mapped.port != PORT)
        report.line("a stranger, at bob's", heard := dial([stranger], _place(mapped))[0], heard == "open")
        await asyncio.sleep(CLOCK_S)
        router.end()
        began = time.monotonic()
        router.begin()
        for _ in range(100):
            if (heard := dial([stranger], place)[0]) == "open":
                break
            await asyncio.sleep(0.1)
        took_s = time.monotonic() - began
        report.line("a stranger, since the router has started again", f"{heard} after {took_s:.1f} s", heard == "open")
        await alice.close()
        await bob.close()
        report.line("a stranger, since the port is given back", heard := dial([stranger], place)[0], heard == "silence")


async def _behind_a_carrier(town: Lab, program: str, folder: Path, report: Report) -> None:
    home = town.home("cgn")
    carol = Asker(home)
    with daemon(program, home, folder) as router:
        router.begin()
        await asyncio.sleep(1.0)
        mapped, _ = await carol.ask()
        report.line("behind a carrier's router", carol.mapper.why_not, mapped is None)
        await carol.close()


def _place(mapped: Mapped | None) -> tuple[str, int]:
    return (mapped.host, mapped.port) if mapped else ("", 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="miniupnpd, of the nftables build")
    options = parser.parse_args()
    if reason := why_not("nft"):
        print(reason, file=sys.stderr)
        return 2
    report = Report()
    with lab() as town, tempfile.TemporaryDirectory() as folder:
        asyncio.run(_one_home(town, options.program, Path(folder), report))
        asyncio.run(_behind_a_carrier(town, options.program, Path(folder), report))
    return report.status


if __name__ == "__main__":
    sys.exit(main())
