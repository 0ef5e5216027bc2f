"""Guards of what lies on a disk: models, outputs, the data dir and its log (mutations.py has the others)."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

ENGINE: Final = "dsdnode.engine.client:WorkerEngine."
MAPPED: Final = "dsdnode.engine.mapped:MappedFile."
HEADER: Final = "dsdnode.engine.gguf_header:_Parser."
OUTPUTS: Final = "dsdnode.files:"

FILES: Final = {
    "model-written": Mutation(ENGINE + "forward", "self._is_written()", "False"),
    "model-watched": Mutation(ENGINE + "_watch", "        self._is_written()\n", ""),
    "model-replaced": Mutation(ENGINE + "_spawn", " or self._file.replaced()", ""),
    "model-set-back": Mutation("dsdnode.engine.mapped:_Part.written", "frame == self._frame", "False"),
    "model-content": Mutation(MAPPED + "again", "now._digest != self._digest", "False"),
    "hash-set-back": Mutation("dsdnode.engine.gguf:_state", "|{status.st_ctime_ns}", ""),
    "header-kept": Mutation(HEADER + "_kept", "self._room_bytes < 0", "False"),
    "header-labels": Mutation(HEADER + "_string", " and length < self._room_bytes - MAX_HEADER_BYTES // 2", ""),
    "output-kind": Mutation(OUTPUTS + "output", "kind != stat.S_IFREG", "False"),
    "output-link": Mutation(OUTPUTS + "output", "path.resolve()", "path"),
    "data-dir-shared": Mutation(OUTPUTS + "check_own", "status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)", "False"),
    "data-dir-owner": Mutation(OUTPUTS + "check_own", "status.st_uid != os.geteuid()", "False"),
    "data-dir-asked": Mutation("dsdnode.cli.options:load", '    check_own(settings["data_dir"])\n', ""),
    "log-size": Mutation("dsdnode.cli.logs:to_file", "maxBytes=MAX_LOG_BYTES", "maxBytes=0"),
    "local-paths": Mutation(ENGINE + "_respawn", 'f"quarantined for', 'f"{self._load.path}: quarantined for'),
}
