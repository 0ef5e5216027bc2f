"""Guards of what is on one machine, taken out: the cage of workers, the swarm's key, and what is posted."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

SECCOMP: Final = "dsdnode.engine.seccomp:"
CAGE: Final = "dsdnode.engine.cage:"

WORKER: Final = {
    "cage-first": Mutation(
        "dsdnode.engine.worker:_Worker.__init__",
        "        cage.shut_files(readable, options.max_memory_bytes)\n",
        "",
    ),
    "cage-calls": Mutation("dsdnode.engine.worker:_Worker.__init__", "        cage.shut_calls()\n", ""),
    "cage-environment": Mutation("dsdnode.engine.link:_start", "**environment(os.environ)", "**os.environ"),
    "cage-names": Mutation(CAGE + "environment", " if _is_needed(name)", ""),
    "cage-reading": Mutation("dsdnode.engine.landlock:restrict", "_call(_RESTRICT, ruleset, 0) == 0", "True"),
    "cage-folder": Mutation(
        CAGE + "_libraries", "    found.add(Path(__file__).parents[1])\n", '    found.add(Path("/"))\n'
    ),
    "cage-sockets": Mutation(SECCOMP + "rules", "(_SOCKETS, _PROCESSES,", "(_PROCESSES,"),
    "cage-others": Mutation(SECCOMP + "rules", "_PROCESSES, _FILES", "_FILES"),
    "cage-forks": Mutation(SECCOMP + "rules", "mask=_CLONE_THREAD, value=_CLONE_THREAD", "mask=0"),
    "cage-modes": Mutation(SECCOMP + "rules", "_FILES, _SYSTEM", "_SYSTEM"),
    "cage-signals": Mutation(
        SECCOMP + "rules", 'Rule("kill", (62, 129), arg=0, value=pid)', 'Rule("kill", (62, 129), arg=0, mask=0)'
    ),
    "cage-back-door": Mutation(SECCOMP + "_instructions", "_IF_AT_LEAST, _X32, 0, 1", "_IF_AT_LEAST, _X32, 1, 1"),
    "cage-limits": Mutation(CAGE + "_limit", "resource.setrlimit(limit, (value, value))", "pass"),
    "worker-answers": Mutation("dsdnode.engine.arrays:outputs_of", "    check_outputs(outputs, chunks, shard)\n", ""),
}

KEYS: Final = {
    "key-file-mode": Mutation(
        "dsdnode.cli.swarm_keys:_first_line", "open_to(file.fileno(), stat.S_IRWXO | stat.S_IWGRP)", "False"
    ),
    "key-config-mode": Mutation("dsdnode.cli.settings:_check_unseen", " and open_to(path, stat.S_IRWXO)", " and False"),
    "key-environment": Mutation("dsdnode.cli.swarm_keys:forget", "environ.pop(secret.variable, None)", "pass"),
    "key-words": Mutation("dsdnode.cli.swarm_keys:without_keys", " if index not in gone", ""),
    "code-words": Mutation(
        "dsdnode.cli.swarm_keys:_places", " or (flag in codes.FLAGS and codes.bears_code(value))", ""
    ),
    "code-environment": Mutation(
        "dsdnode.cli.swarm_keys:forget", "        del environ[codes.VARIABLE]\n", "        pass\n"
    ),
    "code-config-mode": Mutation("dsdnode.cli.settings:_from_file", " and open_to(path, stat.S_IRWXO):", " and False:"),
    "code-kept-mode": Mutation("dsdnode.cli.swarm_keys:keep", "            os.fchmod(file.fileno(), 0o600)\n", ""),
    "code-shown": Mutation("dsdnode.cli.codes:_plain", '"://" not in text and len(text) > MAX_SHOWN', "False"),
    "code-asked": Mutation("dsdnode.cli.invite:invite", "told.swarm_keys if with_swarm_key else ()", "told.swarm_keys"),
    "code-expired": Mutation("dsdnode.cli.codes:fresh", "invitation.expires_s <= now.timestamp()", "False"),
    "key-other-swarm": Mutation("dsdnode.config:read_joins", "any(name in theirs for name in swarms)", "True"),
}

BLOT: Final = "dsdnode.doctor.blot:"
POSTED: Final = {
    "blot-address": Mutation(BLOT + "Blotter._ip", "nearness(text) is Nearness.WORLD or ", ""),
    "blot-key": Mutation(BLOT + "Blotter.text", 'self._as("key", match[0].lower())', "match[0]"),
    "blot-path": Mutation(
        BLOT + "blotter_of", '{home.rstrip("/"): "~", facts.files.data_dir: "DATA_DIR"}', "dict[str, str]()"
    ),
    "blot-host": Mutation(BLOT + "Blotter.text", "_HOST.sub(lambda match: self._host(match[0]), text)", "text"),
    "blot-house": Mutation(BLOT + "_is_one_house_s", "ip in _OWN_NETWORKS or ", ""),
    "blot-card": Mutation(BLOT + "_is_one_house_s", r'ip.packed[11:13] == b"\xff\xfe"', "False"),
    "blot-card-name": Mutation(BLOT[:-1], "|[ops]\\d{1,8}(", "|[opsx]\\w{1,12}("),
    "blot-root": Mutation(BLOT + "blotter_of", 'if text not in ("", "/", ".")', "if text"),
}

LOCAL: Final[dict[str, Mutation]] = WORKER | KEYS | POSTED
