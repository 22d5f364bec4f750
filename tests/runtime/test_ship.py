"""What ships, and what the manifest says of it."""

import hashlib

import pytest

from almanac.runtime import hub, ship
from almanac.systems import SYSTEMS


@pytest.mark.parametrize("system", [system.name for system in SYSTEMS])
def test_every_shipped_file_is_in_the_manifest_as_it_is(system):
    manifest = ship.manifest()
    names = hub.shipped_weights(system)
    assert names
    assert sorted(name for name in manifest if name.startswith(f"{system}/")) == names
    for name in names:
        blob = hub.weights(name).read_bytes()
        assert hashlib.sha256(blob).hexdigest() == manifest[name]["sha256"]
        assert len(blob) == manifest[name]["bytes"]
        assert {"command", "steps", "seconds"} <= manifest[name].keys()
    assert sum(manifest[name]["bytes"] for name in names) <= ship.LIMIT
