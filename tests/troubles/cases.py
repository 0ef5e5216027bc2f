"""The troubles, one function each: what goes wrong in a swarm while, or before, the user asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dsdnode.identity import Identity
from tests.troubles.scene import HOSTS, OVER_S, Scene, Seen, now

SIGN_S = 15.0
END_S = 75.0
"""A minute of patience, a last round of pings and lookups, and what a loaded machine adds."""
JOIN_S = 20.0
"""Ten seconds of trying, and the start and end of a program: a question to a name server that is silent ends late."""
PLAIN_S = 6.0
"""Three seconds where it is plain that trying is in vain, and what a loaded machine adds."""
BLIP_S = 10.0
HASTE = ("--patience", "20")
"""Half of what others have before it is somebody else's turn."""
HASTE_S = 35.0
KEY = Identity(bytes(32)).public_key.hex()


@dataclass(frozen=True, slots=True)
class Trouble:
    """`code`: how it is to end; `names`: whom or what the words must name, of the peers in braces."""

    play: Callable[[Scene], Seen]
    code: int
    names: tuple[str, ...]
    within_s: float = END_S
    may_be_silent: bool = False
    """It may be over before there is anything to say."""


def neighbours_unreachable(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.cut("sam", "sue")
    for name in ("sam", "sue"):  # and what is on its way is lost, too
        scene.ip(name, "route", "flush", "cache")
    return scene.watch(user, began_s)


def host_gone_for_ten_seconds(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.kill("sue")
    time.sleep(BLIP_S)
    scene.start("sue")
    return scene.watch(user, began_s)


def host_gone_for_good(scene: Scene, command: str = "run") -> Seen:
    scene.ring()
    user = scene.reply(command)
    began_s = now()
    scene.kill("sue")
    return scene.watch(user, began_s, chat=command == "chat")


def host_gone_in_a_chat(scene: Scene) -> Seen:
    return host_gone_for_good(scene, "chat")


def drafter_gone_for_ten_seconds(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.kill("dora")
    time.sleep(BLIP_S)
    scene.start("dora")
    return scene.watch(user, began_s)


def drafter_gone_for_good(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.kill("dora")
    return scene.watch(user, began_s)


def hostile(scene: Scene, kind: str) -> Seen:
    """Another drafter is there, and not preferred."""
    scene.ring()
    joined = scene.person(kind, scene.join, scene.made.daemons["dora"].join, HOSTS["mallory"])
    began_s = now()
    return scene.watch(scene.user("run", "--join", joined), began_s)


def drafter_silent(scene: Scene) -> Seen:
    return hostile(scene, "silent")


def drafter_drips(scene: Scene) -> Seen:
    return hostile(scene, "drips")


def caches_full(scene: Scene, *words: str) -> Seen:
    """Dan's guest has more than half of what there is, and alice asks for more than the other half."""
    scene.ring(drafters=("dora", "dan"), shard=("--ctx-size", "256"))
    scene.person("guest", scene.made.daemons["dan"].join, "220")
    began_s = now()
    user = scene.user("run", "--max-tokens", "180", *words, join=scene.made.daemons["dora"].join)
    return scene.watch(user, began_s)


def all_busy(scene: Scene, *words: str) -> Seen:
    scene.ring("--max-sessions", "1")
    scene.person("guest", scene.join, "4000")
    began_s = now()
    return scene.watch(scene.user("run", *words), began_s)


def caches_stay_full(scene: Scene) -> Seen:
    return caches_full(scene, *HASTE)


def all_stay_busy(scene: Scene) -> Seen:
    """For as long as she waits."""
    return all_busy(scene, *HASTE)


def swarm_key_wrong(scene: Scene) -> Seen:
    key = scene.made.folder / "swarm.key"
    key.touch(0o600)
    key.write_text("correct horse battery staple")
    wrong = scene.made.folder / "wrong.key"
    wrong.touch(0o600)
    wrong.write_text("correct horse battery stable")
    scene.start("boot", "--role", "bootstrap", "--swarm-key", f"@{key}")
    assert scene.join
    began_s = now()
    return scene.watch(scene.user("run", "--swarm-key", f"@{wrong}"), began_s)


def own_network_gone(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.ip("alice", "link", "set", "eth0", "down")
    return scene.watch(user, began_s)


def own_network_gone_before(scene: Scene) -> Seen:
    scene.start("boot", "--role", "bootstrap")
    assert scene.join
    scene.ip("alice", "link", "set", "eth0", "down")
    began_s = now()
    return scene.watch(scene.user("run"), began_s)


def dns_unknown(scene: Scene) -> Seen:
    began_s = now()
    return scene.watch(scene.user("run", join=f"dsd://no-such-host.invalid:29170/{KEY}"), began_s)


def port_refused(scene: Scene) -> Seen:
    began_s = now()
    return scene.watch(scene.user("run", join=f"dsd://{HOSTS['boot']}:29171/{KEY}"), began_s)


def model_gone(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.kill("sam", "sue")
    return scene.watch(user, began_s)


def model_taken_back(scene: Scene) -> Seen:
    """Its hosts say goodbye, and end the reply that is going on; somebody asks after it."""
    scene.ring()
    user = scene.reply()
    scene.stop("sam", "sue")
    assert user.wait(OVER_S) == 0, user.screen()
    began_s = now()
    return scene.watch(scene.user("run"), began_s)


def model_unknown(scene: Scene) -> Seen:
    scene.ring()
    began_s = now()
    return scene.watch(scene.user("run", "--model", "llama-9"), began_s)


def shard_restarts(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.kill("sue")
    scene.start("sue")
    return scene.watch(user, began_s)


def shard_restarts_with_other_layers(scene: Scene) -> Seen:
    scene.ring()
    user = scene.reply()
    began_s = now()
    scene.kill("sue")
    words = list(scene.words["sue"])
    words[words.index("--layers") + 1] = "0:4"
    scene.start("sue", *words)
    return scene.watch(user, began_s)


TROUBLES = {
    "neighbours unreachable": Trouble(neighbours_unreachable, 4, ("{sam}", "{sue}")),
    "only host gone for 10 s": Trouble(host_gone_for_ten_seconds, 0, ("4:8", "{sue}")),
    "only host gone for good": Trouble(host_gone_for_good, 4, ("4:8", "{sue}")),
    "the same, in a chat": Trouble(host_gone_in_a_chat, 0, ("4:8", "{sue}")),
    "only drafter gone for 10 s": Trouble(drafter_gone_for_ten_seconds, 0, ("{dora}",)),
    "only drafter gone for good": Trouble(drafter_gone_for_good, 4, ("{dora}",)),
    "drafter silent": Trouble(drafter_silent, 0, (), may_be_silent=True),
    "drafter drips": Trouble(drafter_drips, 0, (), may_be_silent=True),
    "all caches full": Trouble(caches_full, 0, ("cache",)),
    "all caches stay full": Trouble(caches_stay_full, 4, ("cache",), HASTE_S),
    "all busy": Trouble(all_busy, 0, ("{dora}", "taken")),
    "all stay busy": Trouble(all_stay_busy, 4, ("{dora}", "taken"), HASTE_S),
    "swarm key wrong": Trouble(swarm_key_wrong, 1, ("swarm key",), PLAIN_S, True),
    "own network gone": Trouble(own_network_gone, 4, ("{dora}",)),
    "own network gone before": Trouble(own_network_gone_before, 1, (HOSTS["boot"], "offline"), PLAIN_S, True),
    "DNS unknown": Trouble(dns_unknown, 1, ("no-such-host.invalid",), JOIN_S),
    "port refused": Trouble(port_refused, 1, (f"{HOSTS['boot']}:29171",), PLAIN_S, True),
    "model gone": Trouble(model_gone, 4, ("0:4", "{sam}", "4:8", "{sue}")),
    "model taken back": Trouble(model_taken_back, 4, ("hosts a model",), JOIN_S),
    "model unknown": Trouble(model_unknown, 5, ("llama-9",), JOIN_S),
    "shard restarts": Trouble(shard_restarts, 0, (), may_be_silent=True),
    "shard restarts with other layers": Trouble(shard_restarts_with_other_layers, 4, ("4:8",)),
}
