"""Exercises the objects of openstacksdk and python-glanceclient against a running Glimpse, as programs use them.

The user is configured in the environment (OS_AUTH_TYPE, OS_ENDPOINT, OS_USERNAME, OS_PASSWORD; TOKEN and BASE for glanceclient)
and the script exits with an error at the first check that fails.
"""

import os
import sys
import time

import glanceclient
import openstack


def check(condition, what):
    if not condition:
        raise SystemExit(f"check failed: {what}")


def sdk():
    image = openstack.connect(load_envvars=True, load_yaml_config=False).image
    names = [f"sdk-{n}" for n in range(5)]
    made = [
        image.create_image(name=name, disk_format="raw", container_format="bare", allow_duplicates=True, os_distro="debian", colour="red",
                           tags=["sdk", name])
        for name in names
    ]
    check([one.status for one in made] == ["queued"] * 5, "images without data are queued")
    first = image.find_image("sdk-0", ignore_missing=False)
    check(first.id == made[0].id, "an image is found by its name")
    check(image.find_image("sdk-9") is None, "an image that is not there is not found")
    shown = image.get_image(first.id)
    check((shown.os_distro, shown.properties.get("colour")) == ("debian", "red"), "custom properties are shown")
    check(sorted(shown.tags) == ["sdk", "sdk-0"], "tags are shown")
    image.update_image(first, name="renamed", min_ram=64, os_distro="fedora")
    shown = image.get_image(first.id)
    check((shown.name, shown.min_ram, shown.os_distro) == ("renamed", 64, "fedora"), "it was changed")
    image.add_tag(first, "more")
    check("more" in image.get_image(first.id).tags, "a tag was added")
    image.remove_tag(first, "more")
    check("more" not in image.get_image(first.id).tags, "a tag was removed")
    listed = [one.name for one in image.images(tag="sdk", sort="name:asc", limit=2)]
    check(listed == ["renamed"] + names[1:], f"all pages of a listing: {listed}")
    check([one.name for one in image.images(name="sdk-2")] == ["sdk-2"], "filtered by name")
    check([one.name for one in image.images(tag=["sdk", "sdk-3"])] == ["sdk-3"], "filtered by two tags")
    member = image.add_member(first, member_id="other-project")
    check(member.status == "pending", "a new member is pending")
    check([one.id for one in image.members(first)] == ["other-project"], "members are listed")
    check(image.get_member("other-project", first).status == "pending", "a member is shown")
    image.remove_member("other-project", first)
    check(list(image.members(first)) == [], "a member was removed")
    for one in made:
        image.delete_image(one.id, ignore_missing=False)
    check(list(image.images(tag="sdk")) == [], "images were deleted")
    check(image.delete_image(first.id, ignore_missing=True) is None, "deleting a missing image is no error")


def glance():
    client = glanceclient.Client("2", endpoint=os.environ["BASE"], token=os.environ["TOKEN"])
    made = client.images.create(name="glance-0", disk_format="raw", container_format="bare", os_distro="debian")
    check(made.status == "queued", "an image without data is queued")
    image = client.images.get(made.id)
    check((image.name, image.os_distro) == ("glance-0", "debian"), "it is shown")
    image = client.images.update(made.id, remove_props=["os_distro"], name="changed", hw_disk_bus="virtio")
    check(("os_distro" in image, image.name, image.hw_disk_bus) == (False, "changed", "virtio"), "it was changed")
    client.image_tags.update(made.id, "t")
    check(client.images.get(made.id).tags == ["t"], "a tag was added")
    listed = list(client.images.list(filters={"name": "changed", "tag": ["t"]}, page_size=1))
    check([one.id for one in listed] == [made.id], "filtered by name and tag")
    client.image_tags.delete(made.id, "t")
    check(client.images.get(made.id).tags == [], "a tag was removed")
    member = client.image_members.create(made.id, "other-project")
    check((member.member_id, member.status) == ("other-project", "pending"), "a new member is pending")
    check([one.member_id for one in client.image_members.list(made.id)] == ["other-project"], "members are listed")
    client.image_members.delete(made.id, "other-project")
    check(list(client.image_members.list(made.id)) == [], "a member was removed")
    try:
        client.images.get("4ca46bf1-5c61-48ff-b4f3-0ad4e5e3ba90")
        check(False, "an image that is not there is not found")
    except glanceclient.exc.HTTPNotFound as error:
        check("No image found with ID" in str(error), f"the error has a reason: {error}")
    client.images.delete(made.id)
    check(list(client.images.list(filters={"name": "changed"})) == [], "the image was deleted")


def active(image, one):
    for _ in range(100):
        shown = image.get_image(one.id)
        if shown.status == "active":
            return shown
        time.sleep(0.1)
    raise SystemExit(f"check failed: {one.name} becomes active: {shown.status}")


def imports():
    """Imports `disk.raw` in the current folder, which the web server at URL serves, too."""
    image = openstack.connect(load_envvars=True, load_yaml_config=False).image
    formats = {"disk_format": "raw", "container_format": "bare"}
    staged = image.create_image(name="sdk-staged", filename="disk.raw", use_import=True, wait=True, **formats)
    check(active(image, staged).size == os.path.getsize("disk.raw"), "create_image(use_import=True)")
    new = image.create_image(name="sdk-web", allow_duplicates=True, **formats)
    image.import_image(new, method="web-download", uri=os.environ["URL"], all_stores=True)
    check(active(image, new).size == os.path.getsize("disk.raw"), "import_image by web-download")
    image.import_image(staged, method="copy-image", stores=["second"])
    for one in [staged, new]:
        for _ in range(100):
            stores = image.get_image(one.id).properties.get("stores")
            if stores == "fs,second":
                break
            time.sleep(0.1)
        check(stores == "fs,second", f"the stores of {one.name}: {stores}")
        check(image.download_image(one).content == open("disk.raw", "rb").read(), f"the data of {one.name}")
    by_url = image.create_image(name="sdk-uri", use_import=True, import_method="web-download", uri=os.environ["URL"], **formats)
    active(image, by_url)
    for one in [staged, new, by_url]:
        image.delete_image(one.id, ignore_missing=False)


if sys.argv[1:] == ["imports"]:
    imports()
else:
    sdk()
    glance()
