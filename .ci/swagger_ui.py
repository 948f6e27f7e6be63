"""Puts Swagger UI among Envoy's files whenever the package is built, as a wheel or as an editable one.

The files come out of a package of the build's environment, and each must be the very file that its makers published:
pages run what stands here beside their users' tokens. `.gitignore` keeps them out of the repository.
"""

import gzip
import hashlib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import swagger_ui_bundle
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "swagger-ui-bundle-v2"
# Of swagger-ui-dist 5.31.0.
SHA256 = {
    "favicon-32x32.png": "3ed612f41e050ca5e7000cad6f1cbe7e7da39f65fca99c02e99e6591056e5837",
    "swagger-ui-bundle.js": "93b7b0862a80e2786f85b560be7693c2344354ffa7e7e224f850a54349724c31",
    "swagger-ui.css": "9e576f8322132c76949da47f9bb53c891373c303ea3a761ff548ffc9de50a98c",
}
# Envoy sends a file as it is, so what gains by it is compressed here, once.
COMPRESSED = {"swagger-ui-bundle.js", "swagger-ui.css"}


class SwaggerUi(BuildHookInterface[Any]):
    """Fails the build with ValueError on a file that is another one than expected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = Path(self.root, "envoy", "swagger-ui")
        (target / "LICENSE").write_text(distribution(PACKAGE).read_text("licenses/LICENSE") or "", encoding="utf-8")
        for name, expected in SHA256.items():
            content = Path(str(swagger_ui_bundle.swagger_ui_path), name).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError(f"{name} of {PACKAGE} is not the one that Swagger UI published")
            if name in COMPRESSED:
                (target / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (target / name).write_bytes(content)
