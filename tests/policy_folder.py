"""A policy folder to break: the shipped rules, copied, with data of the test's own."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cld.policy.build import find_opa
from cld.policy.rego import RegoPolicy
from cld.principal import parse_principal

FOLDER = Path(__file__).parent.parent / "policies"
LOCAL = parse_principal("user:local")
ADA = parse_principal("user:ada")


def find_compiler() -> Path | None:
    return find_opa(os.environ.get("CLD_OPA", ""), FOLDER)


# In CI a missing compiler is a failure, not a reason to look away.
needs_opa = pytest.mark.skipif(
    find_compiler() is None and not os.environ.get("CI"),
    reason="NO OPA COMPILER FOUND: rules are not compiled in this run; get one with `cld policy install-opa`",
)


class Folder:
    """A copy of the shipped policies at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path / "policies"
        self.path.mkdir(parents=True)
        for file in FOLDER.iterdir():
            if file.is_file():
                shutil.copy(file, self.path / file.name)

    @classmethod
    def at(cls, path: Path) -> "Folder":
        """The folder at `path` itself, nothing copied."""
        folder = cls.__new__(cls)
        folder.path = path
        return folder

    def write_data(self, data: Any) -> None:
        (self.path / "data.json").write_text(json.dumps(data))

    def read_data(self) -> Any:
        return json.loads((self.path / "data.json").read_text())

    def open(self, **options: Any) -> RegoPolicy:
        return RegoPolicy.open(self.path, **options)

    def write_rules(self, text: str) -> None:
        """Replace all rules by one file."""
        for file in self.path.glob("*.rego"):
            file.unlink()
        (self.path / "authz.rego").write_text(text)
