"""Reads a descriptor set with source info from standard input and writes the document to standard output."""

import json
import sys

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from reservation.openapi.document import document


def main() -> None:
    files = FileDescriptorSet.FromString(sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(document(files), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
