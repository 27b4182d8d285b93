"""`%kube_config` and `%kube_doctor`: what holds here, and what is missing."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import line_magic, magics_class, no_var_expand

from kube_nb.magics.base import KubeMagics, helped, keep_settings, settings_of
from kube_nb.magics.flags import ON, RBAC, SAVE

CONFIG = (SAVE,)
DOCTOR = (ON, RBAC)


@magics_class
class SetupMagics(KubeMagics):
    """Settings and the doctor."""

    @line_magic
    @no_var_expand
    @helped("kube_config", CONFIG, "Show the settings, or change one: %kube_config KEY=VALUE.", words="[KEY=VALUE]")
    def kube_config(self, line: str) -> Any:
        """Show each setting with where it came from, or set one for this kernel; `--save`: in the user's file."""
        from kube_nb.errors import BadFlag
        from kube_nb.widgets.tables import Table

        args = self.read(line, CONFIG, words=1)
        settings = settings_of(self.shell)
        if args.words:
            key, equals, value = args.words[0].partition("=")
            if not equals:
                raise BadFlag(
                    what=f"`{key}` has no value", next=f"write %kube_config {key}=VALUE, or {key}= to unset it"
                )
            changed = settings.save(key, value or None) if "save" in args.given else settings.set(key, value or None)
            keep_settings(self.shell, changed)
            return None
        rows = [
            (
                row.name,
                row.value,
                f"{row.origin.layer} {row.origin.where}".strip(),
                row.locked and f"locked by {row.locked}",
            )
            for row in settings.table()
        ]
        return Table(("setting", "value", "from", ""), rows)

    @line_magic
    @no_var_expand
    @helped("kube_doctor", DOCTOR, "Say what works here and what is missing.")
    def kube_doctor(self, line: str) -> Any:
        """Say what works here, what is free, and what is missing with how to mend it."""
        from kube_nb.doctor import examine, to_apply, where
        from kube_nb.widgets.tables import Table

        args = self.read(line, DOCTOR)
        client = self.client(on=args.values.get("on"))
        if "rbac" in args.given:
            print(client.grant(), end="")
            return None
        checks = examine(client)
        rows = [(check.name, check.state, check.text) for check in checks]
        return Table(("check", "state", ""), rows, caption=where(client), after=to_apply(checks))
