"""The templates in deploy/aws as tests read them."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.support.edge import REPOSITORY


@dataclass(frozen=True, order=True, slots=True)
class Permission:
    """An action of DynamoDB as IAM names it ("PutItem"), on a table named as in TABLES, or on an index of it."""

    action: str
    table: str
    index: str = ""


class _Loader(yaml.SafeLoader):
    """Reads `!Ref x` as {"Ref": "x"}, and so every other short form."""


def _short_form(loader: _Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    match node:
        case yaml.ScalarNode():
            return {name: loader.construct_scalar(node)}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
    raise AssertionError(f"!{name} of a mapping")


_Loader.add_multi_constructor("!", _short_form)


@cache
def template(name: str) -> Any:
    return yaml.load((REPOSITORY / "deploy" / "aws" / name).read_text(encoding="utf-8"), _Loader)  # noqa: S506


def statements(policy: str) -> list[dict[str, Any]]:
    """Those of a managed policy of access.yaml, with lists of actions and resources."""
    found = template("access.yaml")["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"]
    assert {each["Effect"] for each in found} == {"Allow"}
    return [each | {name: _list(each[name]) for name in ("Action", "Resource")} for each in found]


def permissions(policy: str) -> set[Permission]:
    """What a managed policy of access.yaml allows in DynamoDB."""
    return {
        Permission(action.removeprefix("dynamodb:"), *_table_and_index(resource))
        for statement in statements(policy)
        for action in statement["Action"]
        if action.startswith("dynamodb:")
        for resource in statement["Resource"]
    }


def _table_and_index(resource: dict[str, str]) -> tuple[str, str]:
    tables = re.escape("arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/")
    found = re.fullmatch(tables + r"\$\{(\w+)Table\}(?:/index/(\w+))?", resource["Sub"])
    assert found is not None, resource
    return found[1].lower(), found[2] or ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
