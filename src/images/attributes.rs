//! An image as the policy sees it, beyond its owner and visibility.

use crate::{
    db::images::Image,
    policy::{Attributes, Value},
};

/// By Glance's names, and as Python shows the values. What is not the image's own row is not here.
impl Attributes for Image {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        Some(match name {
            "id" | "image_id" => Value::text(Some(&self.id)),
            "name" => Value::text(self.name.as_deref()),
            "status" => Value::text(Some(self.status.as_str())),
            "visibility" => Value::text(Some(self.visibility.as_str())),
            "owner" | "project_id" => Value::text(self.owner.as_deref()),
            // Whoever is one is named beside the image.
            "member" | "member_id" => Value::Nothing,
            "disk_format" => Value::text(self.disk_format.as_deref()),
            "container_format" => Value::text(self.container_format.as_deref()),
            "checksum" => Value::text(self.checksum.as_deref()),
            "os_hash_algo" => Value::text(self.os_hash_algo.as_deref()),
            "os_hash_value" => Value::text(self.os_hash_value.as_deref()),
            "size" => Value::number(self.size),
            "virtual_size" => Value::number(self.virtual_size),
            "min_disk" => Value::number(Some(self.min_disk.into())),
            "min_ram" => Value::number(Some(self.min_ram.into())),
            "protected" => Value::boolean(self.protected),
            "os_hidden" => Value::boolean(self.os_hidden),
            _ => return None,
        })
    }
}
