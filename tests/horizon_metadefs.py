"""Horizon's own calls for metadata definitions: target/test-horizon/bin/python tests/horizon_metadefs.py GLIMPSE_URL TOKEN

Runs the functions that its panels and its API call, in the order of an administrator's session, and prints "done".
"""

import json
import os
import sys
from types import SimpleNamespace

os.environ["DJANGO_SETTINGS_MODULE"] = "horizon_server"
os.environ["TEST_KEYSTONE_URL"] = sys.argv[1] + "/v3"
import django  # noqa: E402

django.setup()
from openstack_dashboard.api import glance  # noqa: E402

catalog = [{"type": "image", "endpoints": [{"interface": "public", "region": "r", "region_id": "r", "url": sys.argv[1]}]}]
user = SimpleNamespace(service_catalog=catalog, services_region="r", token=SimpleNamespace(id=sys.argv[2]))


class Request:
    """Horizon remembers clients by it, so it must be hashable."""

    user = user
    session = {}
    COOKIES = {}


request = Request()


def names(listed):
    """The names of this script's namespaces. The server may have others."""
    return [namespace.namespace for namespace in listed[0] if namespace.namespace.startswith("OS::Horizon::")]


# What the form "Import Namespace" sends, from a JSON file.
definition = json.loads("""{
    "namespace": "OS::Horizon::Test", "display_name": "Test", "description": "A test.", "visibility": "public", "protected": false,
    "resource_type_associations": [{"name": "OS::Nova::Server", "prefix": "p:"}, {"name": "OS::Glance::Image"}],
    "properties": {"size": {"title": "Size", "type": "integer", "minimum": 1, "default": 2}},
    "objects": [{"name": "o", "properties": {"colour": {"title": "Colour", "type": "string", "enum": ["red"]}}}],
    "tags": [{"name": "t"}]
}""")
glance.metadefs_namespace_create(request, definition)
glance.metadefs_namespace_create(request, {"namespace": "OS::Horizon::Other", "visibility": "private"})

assert names(glance.metadefs_namespace_list(request)) == ["OS::Horizon::Other", "OS::Horizon::Test"]
filters = {"resource_types": ["OS::Glance::Image"]}
assert names(glance.metadefs_namespace_list(request, filters=filters)) == ["OS::Horizon::Test"]
filters = {"resource_types": ["OS::Nova::Server"], "properties_target": "user"}
assert names(glance.metadefs_namespace_list(request, filters=filters)) == []
assert names(glance.metadefs_namespace_list(request, marker="OS::Horizon::Other", paginate=True)) == ["OS::Horizon::Test"]
# "Update Metadata" of a server.
full = glance.metadefs_namespace_full_list(request, "OS::Nova::Server")[0]
assert list(full[0]["properties"]) == ["p:size"], full
assert list(full[0]["objects"][0]["properties"]) == ["p:colour"], full

shown = glance.metadefs_namespace_get(request, "OS::Horizon::Test", wrap=True)
assert shown.description == "A test." and shown.public and not shown.protected
# "Edit Namespace".
glance.metadefs_namespace_update(request, "OS::Horizon::Test", visibility="private", protected=True)
shown = glance.metadefs_namespace_get(request, "OS::Horizon::Test")
assert (shown["visibility"], shown["protected"], shown["description"]) == ("private", True, "A test."), shown
try:
    glance.metadefs_namespace_delete(request, "OS::Horizon::Test")
    raise AssertionError("it is protected")
except Exception as error:
    assert "403" in str(error), error
glance.metadefs_namespace_update(request, "OS::Horizon::Test", protected=False)

# "Update Associations".
types = {resource_type["name"] for resource_type in glance.metadefs_resource_types_list(request)}
assert types >= {"OS::Nova::Server", "OS::Glance::Image"}, types
glance.metadefs_namespace_add_resource_type(request, "OS::Horizon::Test", {"name": "OS::Nova::Flavor", "prefix": "f:"})
glance.metadefs_namespace_remove_resource_type(request, "OS::Horizon::Test", "OS::Glance::Image")
associated = {each["name"]: each.get("prefix") for each in glance.metadefs_namespace_resource_types(request, "OS::Horizon::Test")}
assert associated == {"OS::Nova::Server": "p:", "OS::Nova::Flavor": "f:"}, associated

for name in ["OS::Horizon::Test", "OS::Horizon::Other"]:
    glance.metadefs_namespace_delete(request, name)
assert names(glance.metadefs_namespace_list(request)) == []
print("done")
