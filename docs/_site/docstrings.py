"""An extension of griffe, which reads docstrings for the reference: `Example:` is the section it calls `Examples:`."""

from typing import Any

import griffe


class Sections(griffe.Extension):
    """Renames the section, so that its lines are shown as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
