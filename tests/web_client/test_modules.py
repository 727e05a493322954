"""The page's pure modules, its types and what it must never do, checked without a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "web_client"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, cwd=PAGE, capture_output=True, text=True, timeout=100, check=False)


def test_modules() -> None:
    done = run("node", "--test", "tests/")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), "node found no tests"


def test_types() -> None:
    compiler = PAGE / "node_modules/typescript/bin/tsc"
    if not compiler.exists():
        pytest.skip("the TypeScript compiler is not installed: run `npm ci` in web_client")
    done = run("node", str(compiler), "--project", "tsconfig.json")
    assert done.returncode == 0, done.stdout


def test_page_needs_no_other_host() -> None:
    for file in (*PAGE.glob("*.js"), *PAGE.glob("*.html"), *PAGE.glob("*.css"), *PAGE.glob("*.svg")):
        hosts = set(re.findall(r"https?://[\w.-]+", file.read_text())) - {"http://www.w3.org"}
        assert not hosts, f"{file.name} names {hosts}"


def test_files_the_page_names_are_there() -> None:
    names = set(re.findall(r'(?:href|src)="web/([^"]+)"', (PAGE / "index.html").read_text()))
    for module in PAGE.glob("*.js"):
        names |= set(re.findall(r'from "\./([^"]+)"', module.read_text()))
    assert "main.js" in names
    assert not [name for name in names if not (PAGE / name).is_file()]


def test_lock_file_records_no_registry() -> None:
    packages = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    assert all("resolved" not in package for package in packages.values())
    assert all("integrity" in package for name, package in packages.items() if name)
