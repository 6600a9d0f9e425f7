# /// script
# requires-python = ">=3.11"
# dependencies = ["pyyaml==6.0.3"]
# ///
"""Make strict schemas of the few fields that lemnos renders of others' kinds, from their own CRDs.

The files are upstream's: example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml of
prometheus-operator, config/crd/bases/keda.sh_scaledobjects.yaml of KEDA,
config/crd/standard/gateway.networking.k8s.io_httproutes.yaml of the Gateway API, and
deployments/helm/nvidia-dra-driver-gpu/crds/resource.nvidia.com_computedomains.yaml of NVIDIA's DRA driver. Types, enums, patterns
and what is required are taken from them for the fields below; any other field is refused. Writes
tests/data/schemas/KIND_VERSION.json, which tests/unit/launchers/kubernetes validate against. A field
below that a CRD lacks ends the script.

    uv run oracles/crd_schemas.py FILE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).parent.parent / "tests/data/schemas"
VERSIONS = {
    "ServiceMonitor": "v1",
    "ScaledObject": "v1alpha1",
    "HTTPRoute": "v1",
    "ComputeDomain": "v1beta1",
}
POLICIES = {"type": {}, "value": {}, "periodSeconds": {}}
RULES = {"stabilizationWindowSeconds": {}, "policies": POLICIES}
CREDENTIALS = {"type": {}, "credentials": {"name": {}, "key": {}}}
FIELDS: dict[str, dict[str, Any]] = {
    "ServiceMonitor": {
        "selector": {"matchLabels": {}},
        "endpoints": {
            "port": {},
            "path": {},
            "interval": {},
            "authorization": CREDENTIALS,
        },
    },
    "ScaledObject": {
        "scaleTargetRef": {"apiVersion": {}, "kind": {}, "name": {}},
        "minReplicaCount": {},
        "maxReplicaCount": {},
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {"scaleUp": RULES, "scaleDown": RULES}
            }
        },
        "triggers": {"type": {}, "metadata": {}},
    },
    "ComputeDomain": {
        "numNodes": {},
        "channel": {"resourceClaimTemplate": {"name": {}}},
    },
    "HTTPRoute": {
        "parentRefs": {"name": {}, "namespace": {}},
        "hostnames": {},
        "rules": {
            "backendRefs": {"name": {}, "port": {}},
            "timeouts": {"request": {}},
        },
    },
}
KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength")
KEPT += ("minItems", "maxItems", "additionalProperties")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for path in sys.argv[1:]:
        crd = yaml.safe_load(Path(path).read_text())
        kind, group = crd["spec"]["names"]["kind"], crd["spec"]["group"]
        version = next(
            v for v in crd["spec"]["versions"] if v["name"] == VERSIONS[kind]
        )
        full = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        schema = {
            "type": "object",
            "additionalProperties": False,
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {
                "apiVersion": {"const": f"{group}/{version['name']}"},
                "kind": {"const": kind},
                "metadata": {"type": "object"},
                "spec": strict(full, FIELDS[kind], kind),
            },
        }
        name = f"{kind.lower()}_{version['name']}.json"
        (OUT / name).write_text(json.dumps(schema, indent=1) + "\n")
        sys.stdout.write(f"{name}\n")


def strict(full: dict[str, Any], fields: dict[str, Any], where: str) -> dict[str, Any]:
    """``full`` with ``fields`` alone, and nothing else allowed."""
    if full.get("type") == "array":
        found = {key: full[key] for key in KEPT if key in full}
        return found | {"items": strict(full["items"], fields, where)}
    if not fields:
        return {key: full[key] for key in KEPT if key in full and plain(full[key])}
    known = full["properties"]
    missing = [name for name in fields if name not in known]
    if missing:
        sys.exit(f"error: {where} has no {', '.join(missing)}")
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in full.get("required", []) if name in fields],
        "properties": {
            name: strict(known[name], below, f"{where}.{name}")
            for name, below in fields.items()
        },
    }


def plain(value: Any) -> bool:
    """Whether a keyword's value is worth keeping: of objects, those of maps of strings."""
    return not isinstance(value, dict) or set(value) <= {"type"}


if __name__ == "__main__":
    main()
