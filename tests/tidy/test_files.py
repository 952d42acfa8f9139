"""What no committed file may be called or say."""

import re

from tests.tidy.tree import ROOMS, files, text_files

HERE = "tests/tidy/test_files.py"
VAGUE_NAMES = frozenset(
    {"service", "services", "utils", "util", "helpers", "helper", "common", "manager", "managers",
     "repository", "repositories", "misc"}
)  # fmt: skip
LOCKS_WITH_HOSTS = re.compile(r"(^|/)(uv\.lock|pylock[^/]*\.toml|poetry\.lock|Pipfile\.lock)$")
PACKAGE_HOSTS = re.compile(
    r"pypi\.org|pythonhosted|pypi\.python|(?<!no-emit-)(?:extra-)?index-url|(?<!no-emit-)find-links"
    r"|registry\.npmjs|registry\.yarnpkg|unpkg\.com|jsdelivr|cdnjs|proxy\.golang|static\.crates\.io",
    re.IGNORECASE,
)
MACHINE_PATHS = re.compile(r"(?<![\w./*{}-])/(?:work|root|home|Users)/\w|[A-Z]:\\Users\\")


def found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number} {match.group()}"
        for path, text in text_files()
        if path != HERE
        for number, line in enumerate(text.splitlines(), start=1)
        if (match := pattern.search(line))
    ]


def test_names_say_what_is_inside() -> None:
    vague = [
        path
        for path in files()
        if VAGUE_NAMES & {part.removesuffix(".py") for part in path.split("/")}
    ]
    assert not vague


def test_no_lock_names_hosts() -> None:
    assert not [path for path in files() if LOCKS_WITH_HOSTS.search(path)]


def test_no_file_names_a_package_host() -> None:
    assert not found(PACKAGE_HOSTS)


def test_no_file_names_a_path_of_one_machine() -> None:
    assert not found(MACHINE_PATHS)


def test_text_ends_with_one_newline_and_has_no_carriage_returns() -> None:
    wrong = [
        path
        for path, text in text_files()
        if path.endswith((".py", ".toml", ".md", ".yaml", ".yml", ".txt", ".html", ".css"))
        and text
        and ("\r" in text or not text.endswith("\n"))
    ]
    assert not wrong


def test_the_example_environment_lists_what_is_read() -> None:
    variable = re.compile(r"\bUSANCE_[A-Z_]+[A-Z]\b")
    read = {
        name
        for path, text in text_files()
        if path.endswith(".py") and path.partition("/")[0] in ROOMS
        for name in variable.findall(text)
    }
    listed = {
        name
        for path, text in text_files()
        if path == ".env.example"
        for line in text.splitlines()
        for name in variable.findall(line.partition("=")[0])
        if "=" in line
    }
    assert listed == read
