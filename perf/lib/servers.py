"""The servers that can be measured: how each is built and started, which version it is, and what it needs.

hubbub is built from this checkout; each peer is a package of its own under perf/peers. A server whose tools are missing
is left out, with the reason.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lib import machine

ROOT = machine.ROOT
PEERS = ROOT / "perf/peers"
HUBBUB = "hubbub"
FASTWEBSOCKETS = "tokio-fastwebsockets"


@dataclass
class Server:
    name: str
    # The arguments that start it, with ADDRESS where its address belongs.
    command: list
    # Steps of the build: (folder, arguments, additions to the environment).
    build: list
    # Programs and files that must be there, with what provides them.
    needs: dict = field(default_factory=dict)
    # Says the version.
    version: object = None

    def missing(self):
        """Why it cannot be built here; None when it can."""
        absent = [thing for thing in self.needs if not is_there(thing)]
        if not absent:
            return None
        remedies = " ".join(dict.fromkeys(self.needs[thing] for thing in absent))
        return f"{', '.join(absent)} missing: {remedies}"

    def unbuilt(self):
        """Why it cannot be started as it is; None when it can."""
        absent = [part for part in self.command[:2] if "/" in part and not Path(part).exists()]
        return f"{absent[0]} is not built" if absent else None

    def prepare(self):
        """Builds it; returns why that failed, or None."""
        for folder, command, environment in self.build:
            done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()
                return f"`{' '.join(command)}` failed: {said[-1] if said else done.returncode}"
        return None

    def started_at(self, address):
        return [part.replace("ADDRESS", address) for part in self.command]


def is_there(thing):
    return Path(thing).exists() if "/" in thing else shutil.which(thing) is not None


def everything(binaries=None):
    """All servers by name, hubbub first. `binaries` is the folder of hubbub's own programs, if not target/release."""
    servers = [hubbub(binaries), rust_peer(FASTWEBSOCKETS, FASTWEBSOCKETS), tungstenite(), gorilla(), node()]
    return {server.name: server for server in servers}


def release_folder(binaries=None):
    return Path(binaries).resolve() if binaries else Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def hubbub(binaries):
    program = str(release_folder(binaries) / "hubbub")
    build = [] if binaries else [(ROOT, ["cargo", "build", "--release", "--locked", "--quiet", "--workspace"], {})]

    def version():
        return f"{machine.first_line([program, '--version'])}, {machine.code_sentence(machine.code())}"

    command = [program, "serve", "--listen", "ADDRESS"]
    return Server(HUBBUB, command, build, {} if binaries else {"cargo": RUSTUP}, version)


def rust_peer(name, binary, crates=("fastwebsockets", "tokio")):
    folder = PEERS / name
    # Its own target folder, whatever CARGO_TARGET_DIR says for hubbub.
    build = [(folder, ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", "target"], {})]

    def version():
        return ", ".join(f"{crate} {locked(folder / 'Cargo.lock', crate)}" for crate in crates)

    return Server(name, [str(folder / "target/release" / binary), "ADDRESS"], build, {"cargo": RUSTUP}, version)


def tungstenite():
    return rust_peer("tokio-tungstenite", "tokio-tungstenite-relay", ("tokio-tungstenite", "tokio"))


def gorilla():
    folder = PEERS / "go-gorilla"
    environment = {"GO111MODULE": "off", "GOPATH": GOCODE, "GOFLAGS": ""}
    build = [(folder, ["go", "build", "-o", "target/go-gorilla", "."], environment)]
    needs = {"go": "apt-get install golang-go", f"{GOCODE}/src/github.com/gorilla/websocket": "apt-get install golang-github-gorilla-websocket-dev"}

    def version():
        package = ["dpkg-query", "-W", "-f", "${Version}", "golang-github-gorilla-websocket-dev"]
        go = machine.first_line(["go", "version"]) or "go"
        return f"gorilla/websocket {machine.first_line(package)} (Debian), {' '.join(go.split()[2:3])}"

    return Server("go-gorilla", [str(folder / "target/go-gorilla"), "ADDRESS"], build, needs, version)


def node():
    folder = PEERS / "node-ws"
    build = [(folder, ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], {})]
    needs = {"node": "apt-get install nodejs", "npm": "apt-get install npm"}

    def version():
        found = re.search(r'"node_modules/ws": \{\s*"version": "([^"]+)"', (folder / "package-lock.json").read_text())
        return f"ws {found[1] if found else '?'}, Node.js {machine.first_line(['node', '--version'])}"

    return Server("node-ws", ["node", str(folder / "server.js"), "ADDRESS"], build, needs, version)


def locked(file, crate):
    """The version of a crate that a Cargo.lock pins."""
    found = re.search(rf'name = "{re.escape(crate)}"\nversion = "([^"]+)"', file.read_text())
    return found[1] if found else "?"


GOCODE = "/usr/share/gocode"
RUSTUP = "install Rust from https://rustup.rs"
