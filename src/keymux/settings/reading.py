"""From the text of a config file to `Settings`, or to every problem it has.

A string of the form ``env.NAME`` is replaced by the environment variable of that name before
anything is checked. What one section has to do with another is checked on the plain JSON, so that
a mistake in one place does not hide those in others.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from math import isinf
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from keymux.providers import CATALOGUE
from keymux.settings.sections import Settings, Timeouts

_ENV = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)\Z")
_PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_PLAIN_FIELD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")
_SHOWN = 40

Problem = tuple[str, str]
"""A JSON path and what is wrong there."""


class BadConfig(Exception):  # noqa: N818 -- it is the config that is bad
    """The config cannot be used.

    Attributes:
        problems: one line each, with the JSON path first.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check a config file.

    Raises:
        BadConfig: with everything that is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadConfig(str(path), [f"$: cannot be read: {error}"]) from None
    return parse(text, source=str(path), environment=environment)


def parse(text: str, *, source: str, environment: Mapping[str, str]) -> Settings:
    """Check the text of a config; `source` names it in messages.

    Raises:
        BadConfig: with everything that is wrong with it.
    """
    reading = _Reading(environment)
    try:
        plain = reading.resolved(_decoded(text), "$")
        whole = json.dumps(plain)
    except (ValueError, RecursionError) as error:
        raise BadConfig(source, [f"$: is not valid JSON: {error}"]) from None
    problems = list(_across(plain))
    try:
        settings = Settings.model_validate_json(whole)
    except ValidationError as error:
        wrong = [_told(dict(problem)) for problem in error.errors(include_url=False)]
        problems = [*wrong, *problems]
    else:
        if not problems and not reading.problems:
            return settings
    lines = [f"{path}: {what}" for path, what in reading.with_others(problems)]
    raise BadConfig(source, lines)


# -- the text ------------------------------------------------------------------------------------
class _Object(dict[str, Any]):
    """A JSON object that remembers which names it was given twice."""

    twice: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        found.twice = tuple(name for name in found if names.count(name) > 1)
    return found


def _number(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"the number {text[:_SHOWN]} is too large")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _decoded(text: str) -> Any:  # noqa: ANN401 -- JSON
    return json.loads(
        text, object_pairs_hook=_object, parse_float=_number, parse_constant=_constant
    )


class _Reading:
    """Puts environment variables in, and notes what is missing or there twice."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[Problem] = []

    def resolved(self, value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON
        """The value with variables put in for their names."""
        if isinstance(value, _Object):
            self.problems += ((_within(path, name), "stands there twice") for name in value.twice)
            return {name: self.resolved(item, _within(path, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item, f"{path}[{at}]") for at, item in enumerate(value)]
        if isinstance(value, str) and (variable := _ENV.match(value)):
            return self._variable(variable[1], path) or value
        return value

    def _variable(self, name: str, path: str) -> str:
        found = self._environment.get(name, "")
        if not found:
            self.problems.append((path, f"the environment variable {name} is not set"))
        return found

    def with_others(self, problems: list[Problem]) -> list[Problem]:
        """All problems, each place and reason once; a missing variable is all there is to say."""
        known = {path for path, _ in self.problems}
        others = [problem for problem in problems if problem[0] not in known]
        return list(dict.fromkeys([*self.problems, *others]))


def _within(path: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if _PLAIN_FIELD.match(name) else f"{path}[{json.dumps(name)}]"


def _told(problem: dict[str, Any]) -> Problem:
    path = "$"
    for part in problem["loc"]:
        path = _within(path, part)
    if problem["type"] == "extra_forbidden":
        return path, "no such field"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return path, f"{message[:1].lower()}{message[1:]}"


# -- what one section has to do with another -----------------------------------------------------
def _across(plain: Any) -> Iterator[Problem]:  # noqa: ANN401 -- JSON
    config = _fields(plain)
    providers = _fields(config.get("providers"))
    for name, provider in providers.items():
        yield from _provider_problems(_within("$.providers", name), name, _fields(provider))
    yield from _name_problems(_items(config.get("models")))
    for index, model in enumerate(_items(config.get("models"))):
        yield from _route_problems(f"$.models[{index}].route", _fields(model), providers)
    timeouts = {**Timeouts().model_dump(), **_fields(config.get("timeouts"))}
    early, overall = timeouts["early_commit_s"], timeouts["overall_s"]
    if isinstance(early, int | float) and isinstance(overall, int | float) and early > overall:
        yield "$.timeouts.early_commit_s", "longer than overall_s"


def _provider_problems(at: str, name: str, provider: dict[str, Any]) -> Iterator[Problem]:
    if not _PROVIDER_NAME.match(name):
        yield at, "use small letters, digits and _ for its name, a letter first, at most 31"
    kind = provider.get("kind")
    dialect = CATALOGUE.get(kind) if isinstance(kind, str) else None
    if dialect is not None and not (provider.get("base_url") or dialect.base_url):
        yield f"{at}.base_url", f"the dialect {kind!r} has no address of its own"


def _name_problems(models: list[Any]) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for index, model in enumerate(map(_fields, models)):
        at = f"$.models[{index}]"
        names = [(f"{at}.id", model.get("id"))]
        names += [(f"{at}.aliases[{i}]", a) for i, a in enumerate(_items(model.get("aliases")))]
        for path, name in names:
            if not isinstance(name, str):
                continue
            if name in owners:
                yield path, f"the name {name[:_SHOWN]!r} already belongs to {owners[name]}"
            owners.setdefault(name, at)


def _route_problems(at: str, model: dict[str, Any], providers: dict[str, Any]) -> Iterator[Problem]:
    seen: set[str] = set()
    for step, target in enumerate(map(_fields, _items(model.get("route")))):
        name, where = target.get("provider"), f"{at}[{step}].provider"
        if not isinstance(name, str):
            continue
        if name not in providers:
            yield where, f"no provider of this config is called {name[:_SHOWN]!r}"
        if name in seen:
            yield where, f"{name[:_SHOWN]!r} is in this route already"
        seen.add(name)


def _fields(value: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:  # noqa: ANN401 -- JSON
    return value if isinstance(value, list) else []


# -- for editors ---------------------------------------------------------------------------------
def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file."""
    schema = Settings.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "keymux config"
    return schema
