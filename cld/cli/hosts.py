"""Hosts: where each MCP host keeps its list of servers, and what an entry looks like there.

Facts only, one table; nothing here reads or writes a file. `docs/hosts.md` says the same for people.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Scope = Literal["user", "project"]
Platform = Literal["linux", "macos", "windows"]


@dataclass(frozen=True)
class Machine:
    """The part of a machine that decides where hosts keep their files."""

    platform: Platform
    home: Path
    project: Path
    environment: Mapping[str, str]

    @property
    def app_data(self) -> Path:
        """Where applications keep a user's settings."""
        match self.platform:
            case "linux":
                return Path(self.environment.get("XDG_CONFIG_HOME") or self.home / ".config")
            case "macos":
                return self.home / "Library" / "Application Support"
            case "windows":
                return Path(self.environment.get("APPDATA") or self.home / "AppData" / "Roaming")


@dataclass(frozen=True)
class Host:
    """One host.

    `servers_key` is the member of its file that holds the servers. `comments` says whether the host
    reads its file as JSON with comments and trailing commas. `user` and `project` say where the file
    of that scope is, relative to `base` and to the project; an empty one means cld writes none.
    """

    id: str
    title: str
    servers_key: str
    next_step: str
    user: str = ""
    project: str = ""
    base: Literal["home", "app_data", "zed"] = "home"
    comments: bool = False
    typed: bool = False
    default_scope: Scope = "user"
    by_hand: str = ""
    program: str = ""
    marks: tuple[str, ...] = ()

    def file(self, scope: Scope, machine: Machine) -> Path | None:
        """The file that holds the servers of `scope`, None where cld writes none."""
        place = self.user if scope == "user" else self.project
        if not place:
            return None
        return (self._base(machine) if scope == "user" else machine.project) / place

    def entry(self, command: str, args: list[str]) -> dict[str, Any]:
        """The entry of a stdio server."""
        start: dict[str, Any] = {"type": "stdio"} if self.typed else {}
        return {**start, "command": command, "args": args}

    def is_here(self, machine: Machine) -> bool:
        """Whether the host seems to be installed: it left its folder, or its program is on the path."""
        if self.program and shutil.which(self.program, path=machine.environment.get("PATH", "")):
            return True
        return any((self._base(machine) / mark).exists() for mark in self.marks)

    def _base(self, machine: Machine) -> Path:
        if self.base == "home":
            return machine.home
        # Zed follows XDG on Linux, uses ~/.config on macOS too, and %APPDATA% on Windows.
        if self.base == "zed" and machine.platform == "macos":
            return machine.home / ".config"
        return machine.app_data


HOSTS: tuple[Host, ...] = (
    Host(
        id="claude-desktop",
        title="Claude Desktop",
        servers_key="mcpServers",
        user="Claude/claude_desktop_config.json",
        base="app_data",
        marks=("Claude",),
        next_step="Quit Claude Desktop and start it again.",
    ),
    Host(
        id="claude-code",
        title="Claude Code",
        servers_key="mcpServers",
        project=".mcp.json",
        default_scope="project",
        program="claude",
        marks=(".claude.json", ".claude"),
        by_hand="Claude Code keeps its user settings itself; run: claude mcp add-json --scope user {name} {entry}",
        next_step="Start claude in this folder and answer yes when it asks about the server; /mcp lists it.",
    ),
    Host(
        id="vscode",
        title="VS Code",
        servers_key="servers",
        user="Code/User/mcp.json",
        project=".vscode/mcp.json",
        base="app_data",
        comments=True,
        typed=True,
        program="code",
        marks=("Code",),
        next_step="In VS Code run 'MCP: List Servers' from the command palette and start it.",
    ),
    Host(
        id="cursor",
        title="Cursor",
        servers_key="mcpServers",
        user=".cursor/mcp.json",
        project=".cursor/mcp.json",
        comments=True,
        program="cursor",
        marks=(".cursor",),
        next_step="Switch the server on in Cursor's settings under Tools & MCP.",
    ),
    Host(
        id="windsurf",
        title="Windsurf",
        servers_key="mcpServers",
        user=".codeium/windsurf/mcp_config.json",
        comments=True,
        program="windsurf",
        marks=(".codeium/windsurf",),
        next_step="Press refresh in Windsurf's MCP panel.",
    ),
    Host(
        id="zed",
        title="Zed",
        servers_key="context_servers",
        user="zed/settings.json",
        project=".zed/settings.json",
        base="zed",
        comments=True,
        program="zed",
        marks=("zed", "Zed"),
        next_step="Zed reads the change at once; its agent settings show the server.",
    ),
    Host(
        id="jetbrains",
        title="JetBrains AI Assistant",
        servers_key="mcpServers",
        base="app_data",
        marks=("JetBrains",),
        by_hand="JetBrains IDEs keep this list inside; paste it in Settings | Tools | AI Assistant | "
        "Model Context Protocol (MCP), Add, As JSON",
        next_step="Press Apply, then start the server in the same list.",
    ),
    Host(
        id="junie",
        title="JetBrains Junie",
        servers_key="mcpServers",
        user=".junie/mcp/mcp.json",
        project=".junie/mcp/mcp.json",
        marks=(".junie",),
        next_step="Settings | Tools | Junie | MCP Settings shows the server.",
    ),
)


def this_machine() -> Machine:
    """The machine, user and folder this process runs in."""
    platform: Platform = "windows" if os.name == "nt" else "macos" if sys.platform == "darwin" else "linux"
    return Machine(platform=platform, home=Path.home(), project=Path.cwd(), environment=os.environ)


def hosts_here(machine: Machine) -> list[Host]:
    """The hosts that seem to be installed, in the table's order."""
    return [host for host in HOSTS if host.is_here(machine)]
