"""The templates in deploy/aws say what the code says: tables, names, sources, and calls beside DynamoDB's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reservation import eventbridge
from reservation.app import tables_of
from reservation.audit import queue
from reservation.dynamodb.tables import TTL_ATTRIBUTE, definitions
from reservation.eventbridge import SOURCE
from reservation.settings import Settings
from tests.support.cloudformation import statements, template

DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
DATA = template("data.yaml")
TABLES = {
    name: resource["Properties"]
    for name, resource in DATA["Resources"].items()
    if resource["Type"] == "AWS::DynamoDB::Table"
}


def test_the_tables_are_those_that_the_service_makes() -> None:
    made = {definition["TableName"]: _comparable(definition) for definition in definitions(tables_of(_defaults()))}
    named = {_default(DATA, table["TableName"]["Ref"]): _comparable(table) for table in TABLES.values()}
    assert named == made
    assert {table["BillingMode"] for table in TABLES.values()} == {"PAY_PER_REQUEST"}


def test_only_idempotency_records_are_deleted_by_time() -> None:
    lifetimes = {
        name: table["TimeToLiveSpecification"] for name, table in TABLES.items() if "TimeToLiveSpecification" in table
    }
    assert lifetimes == {"Idempotency": {"AttributeName": TTL_ATTRIBUTE, "Enabled": True}}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_outlives_its_stack_and_can_be_brought_back_to_any_second(name: str) -> None:
    resource, table = DATA["Resources"][name], TABLES[name]
    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert _default(DATA, table["DeletionProtectionEnabled"]["Ref"]) == "true"


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"Leases"}))
def test_what_a_sale_writes_can_be_warmed_before_it_and_its_indexes_too(name: str) -> None:
    warmed = [TABLES[name], *TABLES[name].get("GlobalSecondaryIndexes", [])]
    for each in warmed:
        condition, units, otherwise = each["WarmThroughput"]["If"]
        assert (condition, otherwise) == (f"{name}IsWarm", {"Ref": "AWS::NoValue"})
        assert units == {
            "ReadUnitsPerSecond": {"Select": [0, {"Ref": f"{name}Warm"}]},
            "WriteUnitsPerSecond": {"Select": [1, {"Ref": f"{name}Warm"}]},
        }


@pytest.mark.parametrize("name", ["data.yaml", "access.yaml"])
def test_names_are_by_default_what_the_settings_have(name: str) -> None:
    parameters = {key: each.get("Default") for key, each in template(name)["Parameters"].items()}
    tables = {f"{each}Table": DEFAULTS[f"dynamodb_table_{each.lower()}"] for each in TABLES}
    assert tables | {"EventBus": DEFAULTS["eventbridge_bus_name"]} == {
        key: value for key, value in parameters.items() if key.endswith("Table") or key == "EventBus"
    }


def test_the_environment_that_it_tells_names_every_table_and_the_bus() -> None:
    lines = DATA["Outputs"]["Environment"]["Value"]["Sub"].splitlines()
    told = dict(line.split("=") for line in lines)
    assert told == {"AWS_REGION": "${AWS::Region}", "EVENTBRIDGE_BUS_NAME": "${Bus}"} | {
        f"DYNAMODB_TABLE_{name.upper()}": f"${{{name}}}" for name in TABLES
    }
    assert {name.lower() for name in told} <= DEFAULTS.keys()


def test_rules_archive_and_policy_know_the_source_of_the_events() -> None:
    (publish,) = (each for each in statements("ServicePolicy") if each["Sid"] == "Publish")
    assert publish["Condition"] == {"ForAllValues:StringEquals": {"events:source": [SOURCE]}}
    for name in ("Archive", "ConsumerRule"):
        assert DATA["Resources"][name]["Properties"]["EventPattern"] == {"source": [SOURCE]}


def test_the_policies_allow_the_calls_of_eventbridge_and_sqs_that_are_made() -> None:
    """The calls of DynamoDB are heard, not read, by another test."""
    asked_of_the_bus = set(re.findall(r'\.call\("(\w+)"', _source(eventbridge)))
    assert _actions("ServicePolicy", "events") == asked_of_the_bus == {"PutEvents", "DescribeEventBus"}
    asked_of_the_queue = set(re.findall(r"_sqs\.(\w+)\(", _source(queue)))
    assert asked_of_the_queue == {"receive_message", "change_message_visibility_batch"}
    assert _actions("OperatorsPolicy", "sqs") == {"ReceiveMessage", "ChangeMessageVisibility"}
    for policy, services in (("ServicePolicy", {"dynamodb", "events"}), ("OperatorsPolicy", {"dynamodb", "sqs"})):
        allowed = {action.partition(":")[0] for each in statements(policy) for action in each["Action"]}
        assert allowed == services
        assert not any("*" in action for each in statements(policy) for action in each["Action"])


def test_only_one_service_account_may_take_the_role() -> None:
    role = template("access.yaml")["Resources"]["ServiceRole"]["Properties"]
    text, values = role["AssumeRolePolicyDocument"]["Sub"]
    assert values == {"Issuer": {"Select": [1, {"Split": ["oidc-provider/", {"Ref": "OidcProviderArn"}]}]}}
    (statement,) = json.loads(text)["Statement"]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Condition"] == {
        "StringEquals": {
            "${Issuer}:aud": "sts.amazonaws.com",
            "${Issuer}:sub": "system:serviceaccount:${Namespace}:${ServiceAccount}",
        }
    }


def _comparable(table: dict[str, Any]) -> dict[str, Any]:
    """What decides how a table is used, without the order of its attributes."""
    indexes = [
        {key: value for key, value in index.items() if key != "WarmThroughput"}
        for index in table.get("GlobalSecondaryIndexes", [])
    ]
    attributes = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    return {"key": table["KeySchema"], "attributes": attributes, "indexes": indexes}


def _defaults() -> Settings:
    return Settings.model_construct()


def _default(of: Any, parameter: str) -> str:
    return str(of["Parameters"][parameter]["Default"])


def _actions(policy: str, service: str) -> set[str]:
    prefix = f"{service}:"
    every = (action for each in statements(policy) for action in each["Action"])
    return {action.removeprefix(prefix) for action in every if action.startswith(prefix)}


def _source(module: Any) -> str:
    return Path(module.__file__).read_text(encoding="utf-8")
