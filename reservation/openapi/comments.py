"""The comments of proto files, by what they stand before."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

_FIELD_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")


def comments_of(files: FileDescriptorSet) -> Mapping[str, str]:
    """Full names to leading comments, each in one line and with field names as JSON has them. Without source info there
    are none."""
    return {name: text for file in files.file for name, text in _comments_of_file(file)}


def _comments_of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        if location.leading_comments and (name := _name_at(file, location.path)):
            yield f"{file.package}.{name}", _in_json_terms(" ".join(location.leading_comments.split()))


def _name_at(file: FileDescriptorProto, path: Any) -> str:
    """A path is field numbers and indexes in turn, from FileDescriptorProto inwards; "" where it leads to no thing that
    has a name. https://protobuf.dev/reference/java/api-docs/com/google/protobuf/DescriptorProtos.SourceCodeInfo.Location
    """
    names: list[str] = []
    here: Any = file
    for number, index in zip(path[::2], path[1::2], strict=False):
        parts = here.DESCRIPTOR.fields_by_number[number]
        if not parts.is_repeated or parts.message_type is None or "name" not in parts.message_type.fields_by_name:
            return ""
        here = getattr(here, parts.name)[index]
        names.append(here.name)
    return ".".join(names) if len(path) % 2 == 0 else ""


def _in_json_terms(text: str) -> str:
    return _FIELD_NAME.sub(lambda name: json_name(name[0]), text)


def json_name(name: str) -> str:
    """As protobuf's JSON mapping has it."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)
